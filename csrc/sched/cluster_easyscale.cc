// easyscale: a job's logical workers share what GPUs it has; who speeds up most by a GPU gets it.
#include <algorithm>

#include "sched/cluster_policies.h"
#include "sched/target_deal.h"

namespace tide::sched {
namespace {

class EasyScale final : public TargetDeal {
 public:
  EasyScale()
      : TargetDeal({.start_reason = "the least its logical workers run on is free",
                    .resize_reason = "its proposal speeds up most for a GPU, or others' do now",
                    .preempt_reason = "earlier jobs need its GPUs"}) {}
  std::unique_ptr<ClusterPolicy> Clone() const override {
    return std::make_unique<EasyScale>(*this);
  }

 protected:
  bool VisitOwnState(PolicyArchive&) override { return true; }

  std::vector<int> Targets(const ClusterInput& input,
                           const std::vector<JobIndex>& active) override {
    std::vector<std::vector<int>> sizes;
    std::vector<int> targets(active.size(), 0);
    int free = input.cluster.gpus;
    const auto give_least = [&](JobState state) {
      for (size_t i = 0; i < active.size(); ++i) {
        if (input.jobs[active[i].value()].state != state || sizes[i][0] > free) continue;
        targets[i] = sizes[i][0];
        free -= targets[i];
      }
    };
    for (const JobIndex index : active) sizes.push_back(Plans(input, input.jobs[index.value()]));
    give_least(JobState::kRunning);  // nobody is stopped for the sake of a newcomer
    give_least(JobState::kPending);
    Gains(input, active).Raise(sizes, free, targets);
    return targets;
  }

 private:
  // The intra-job scheduler: numbers of GPUs over which the logical workers spread with a gain; an
  // uneven split is as slow as its fullest GPU and is not proposed.
  static std::vector<int> Plans(const ClusterInput& input, const JobView& job) {
    std::vector<int> sizes = SizesOf(job, input.profiles);
    if (sizes.size() == 1) return sizes;
    std::vector<int> plans{job.gpus_min};
    double best = SpeedOf(job, input.profiles, job.gpus_min);
    for (int size = job.gpus_min + 1; size <= job.gpus_max; ++size) {
      const double speed = SpeedOf(job, input.profiles, size);
      if (speed <= best) continue;
      best = speed;
      plans.push_back(size);
    }
    return plans;
  }

  struct Gains : GreedyGain {
    Gains(const ClusterInput& input, const std::vector<JobIndex>& active)
        : input(input), active(active) {}
    double Gain(size_t index, int from, int to) const override {
      const JobView& job = input.jobs[active[index].value()];
      return (SpeedOf(job, input.profiles, to) / SpeedOf(job, input.profiles, from) - 1) /
             (to - from);
    }
    const ClusterInput& input;
    const std::vector<JobIndex>& active;
  };
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeEasyScale(const ClusterPolicyOptions&) {
  return std::make_unique<EasyScale>();
}

}  // namespace tide::sched

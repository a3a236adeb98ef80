// optimus: everybody the least it runs on, then GPU by GPU to the job whose end comes nearest by
// it.
#include <algorithm>

#include "sched/cluster_policies.h"
#include "sched/target_deal.h"

namespace tide::sched {
namespace {

constexpr double kOptimusRound = 600;

class Optimus final : public TargetDeal {
 public:
  explicit Optimus(double round_s)
      : TargetDeal({.round_s = round_s,
                    .start_reason = "the least it runs on is free; smaller needs go first",
                    .resize_reason = "a GPU more or less moves the sum of completion times most",
                    .preempt_reason = "jobs with smaller needs take the GPUs"}) {}
  std::unique_ptr<ClusterPolicy> Clone() const override { return std::make_unique<Optimus>(*this); }

 protected:
  bool VisitOwnState(PolicyArchive&) override { return true; }

  std::vector<int> Targets(const ClusterInput& input,
                           const std::vector<JobIndex>& active) override {
    Gains gains(input, active);
    std::vector<std::vector<int>> sizes;
    std::vector<size_t> order;
    for (size_t i = 0; i < active.size(); ++i) {
      const JobView& job = input.jobs[active[i].value()];
      sizes.push_back(AllSizesOf(job, input.profiles));
      order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return sizes[a][0] < sizes[b][0]; });
    std::vector<int> targets(active.size(), 0);
    int free = input.cluster.gpus;
    for (const size_t i : order) {
      if (sizes[i][0] > free) continue;
      targets[i] = sizes[i][0];
      free -= targets[i];
    }
    gains.Raise(sizes, free, targets);
    return targets;
  }

 private:
  struct Gains : GreedyGain {
    Gains(const ClusterInput& input, const std::vector<JobIndex>& active)
        : input(input), active(active) {}
    double Gain(size_t index, int from, int to) const override {
      const JobView& job = input.jobs[active[index].value()];
      const double before = SpeedOf(job, input.profiles, from);
      const double after = SpeedOf(job, input.profiles, to);
      return job.RemainingAt(input.now_s) * (1 / before - 1 / after) / (to - from);
    }
    const ClusterInput& input;
    const std::vector<JobIndex>& active;
  };
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeOptimus(const ClusterPolicyOptions& options) {
  return std::make_unique<Optimus>(options.round_s > 0 ? options.round_s : kOptimusRound);
}

}  // namespace tide::sched

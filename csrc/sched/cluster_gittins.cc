// gittins: the best chance to end soon for the service it takes, by the sizes of finished jobs.
#include "sched/cluster_policies.h"
#include "sched/round_deal.h"
#include "sched/size_distribution.h"

namespace tide::sched {
namespace {

constexpr double kRound = 360;
constexpr double kGittinsQuantum =
    3250;  // GPU-seconds that an index looks ahead, as published with the code

class Gittins final : public RoundDeal {
 public:
  Gittins(double round_s, double quantum)
      : RoundDeal({.round_s = round_s,
                   .start_reason = "of the jobs that fit its Gittins index is the highest",
                   .preempt_reason = "jobs with higher Gittins indices need its GPUs"}),
        quantum_(quantum) {}
  std::unique_ptr<ClusterPolicy> Clone() const override { return std::make_unique<Gittins>(*this); }

 protected:
  bool VisitOwnState(PolicyArchive& archive) override {
    archive.fields(sizes_);
    return true;
  }

  void Note(const ClusterInput& input) override {
    for (const JobEvent& event : input.events) {
      if (event.kind != JobEventKind::kCompletion) continue;
      const JobView& job = input.jobs[event.job.value()];
      sizes_.Add(job.duration_s * job.gpus);
    }
  }

  std::vector<double> Keys(const ClusterInput& input,
                           const std::vector<JobIndex>& active) override {
    std::vector<double> keys;
    keys.reserve(active.size());
    for (const JobIndex index : active) {
      const JobView& job = input.jobs[index.value()];
      keys.push_back(-sizes_.GittinsIndex(job.ExecutedAt(input.now_s) * job.gpus, quantum_));
    }
    return keys;
  }

 private:
  const double quantum_;
  SizeDistribution sizes_;
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeGittins(const ClusterPolicyOptions& options) {
  const double quantum =
      options.queue_limits_s.empty() ? kGittinsQuantum : options.queue_limits_s.front();
  return std::make_unique<Gittins>(options.round_s > 0 ? options.round_s : kRound, quantum);
}

}  // namespace tide::sched

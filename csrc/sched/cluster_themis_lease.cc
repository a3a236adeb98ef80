// themis-lease, Themis without its auction: at the end of a lease the jobs with the worst
// finish-time ratio choose first.
#include <algorithm>

#include "sched/cluster_policies.h"
#include "sched/round_deal.h"

namespace tide::sched {
namespace {

constexpr double kDefaultLease = 1200;  // 20 minutes, as published

class ThemisLease final : public RoundDeal {
 public:
  explicit ThemisLease(double lease_s)
      : RoundDeal(
            {.round_s = lease_s,
             .start_reason = "its finish-time ratio is the worst of those that fit",
             .preempt_reason = "its lease is over and jobs with worse finish-time ratios wait"}) {}
  std::unique_ptr<ClusterPolicy> Clone() const override {
    return std::make_unique<ThemisLease>(*this);
  }

 protected:
  bool VisitOwnState(PolicyArchive&) override { return true; }

  // Minus rho: time until its end if it ran from now on, over the time with an equal share alone.
  std::vector<double> Keys(const ClusterInput& input,
                           const std::vector<JobIndex>& active) override {
    double wanted = 0;
    for (const JobIndex job : active) wanted += input.jobs[job.value()].gpus;
    const double contention = std::max(1.0, wanted / std::max(1, input.cluster.gpus));
    std::vector<double> keys;
    keys.reserve(active.size());
    for (const JobIndex index : active) {
      const JobView& job = input.jobs[index.value()];
      const double shared_s = input.now_s - job.submit_s + job.RemainingAt(input.now_s);
      keys.push_back(-shared_s / (std::max(1e-9, job.duration_s) * contention));
    }
    return keys;
  }
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeThemisLease(const ClusterPolicyOptions& options) {
  return std::make_unique<ThemisLease>(options.round_s > 0 ? options.round_s : kDefaultLease);
}

}  // namespace tide::sched

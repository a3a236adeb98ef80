// max-min (Gavel's max_min_fairness on one type of GPU): equal GPU time for every job.
#include "sched/cluster_policies.h"
#include "sched/share_rounds.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeMaxMin(const ClusterPolicyOptions& options) {
  return MakeShareRounds({.shares = MaxMinShares,
                          .round_s = options.round_s > 0 ? options.round_s : 360,
                          .start_reason = "it has had the least of its fair share",
                          .preempt_reason = "jobs further behind their fair shares need its GPUs"});
}

}  // namespace tide::sched

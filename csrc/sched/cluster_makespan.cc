// makespan (Gavel's min_total_duration on one type of GPU): all jobs should end together.
#include "sched/cluster_policies.h"
#include "sched/share_rounds.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeMakespan(const ClusterPolicyOptions& options) {
  return MakeShareRounds({.shares = MakespanShares,
                          .round_s = options.round_s > 0 ? options.round_s : 360,
                          .start_reason = "it is furthest behind ending with the others",
                          .preempt_reason = "jobs further behind the common end need its GPUs"});
}

}  // namespace tide::sched

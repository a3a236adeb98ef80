// finish-time (Gavel's finish_time_fairness on one type): the worst ratio of time shared to time
// alone.
#include "sched/cluster_policies.h"
#include "sched/share_rounds.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeFinishTime(const ClusterPolicyOptions& options) {
  return MakeShareRounds(
      {.shares = FinishTimeShares,
       .round_s = options.round_s > 0 ? options.round_s : 360,
       .start_reason = "it is furthest behind the share that its finish time needs",
       .preempt_reason = "jobs further behind the shares that their finish times need wait"});
}

}  // namespace tide::sched

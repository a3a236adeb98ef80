// antman: guaranteed jobs are placed at once; opportunistic ones run on what is left and beside
// them, where memory and idle time allow.
#include "sched/cluster_policies.h"
#include "sched/protected_share.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeAntman(const ClusterPolicyOptions& options) {
  return MakeProtectedShare(
      {.control_s = options.round_s > 0 ? options.round_s : 60,
       .start_reason = "it fits, and no job of its class is ahead of it",
       .preempt_reason = "it is opportunistic and guaranteed jobs need its GPUs"});
}

}  // namespace tide::sched

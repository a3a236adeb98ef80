// tgs: opportunistic jobs beside production jobs, whatever those leave; the launch rate is raised
// step by step and halved when production slows.
#include "sched/cluster_policies.h"
#include "sched/protected_share.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeTgs(const ClusterPolicyOptions& options) {
  return MakeProtectedShare({.needs_room = false,
                             .control_s = options.round_s > 0 ? options.round_s : 60,
                             .start_reason = "it fits, and no job of its class is ahead of it",
                             .preempt_reason = "it is opportunistic; production needs its GPUs"});
}

}  // namespace tide::sched

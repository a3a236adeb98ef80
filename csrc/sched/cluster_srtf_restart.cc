// srtf-restart: shortest remaining time first that preempts only for more than a restart costs.
#include "sched/cluster_policies.h"
#include "sched/shortest_first.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeSrtfRestart(const ClusterPolicyOptions& options) {
  constexpr double kRestartCost = 60;  // a checkpoint, a start of Python and of the data loader
  return MakeShortestFirst(
      {.by_gpu_time = false,
       .restart_cost_s = options.restart_cost_s > 0 ? options.restart_cost_s : kRestartCost,
       .start_reason = "of the jobs that fit it has the least time left",
       .preempt_reason = "jobs shorter by more than a restart costs need its GPUs"});
}

}  // namespace tide::sched

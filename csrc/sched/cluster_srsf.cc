// srsf, shortest remaining service first (published as "shortest-gpu"): time left times GPUs.
#include "sched/cluster_policies.h"
#include "sched/shortest_first.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeSrsf(const ClusterPolicyOptions&) {
  return MakeShortestFirst(
      {.by_gpu_time = true,
       .start_reason = "of the jobs that fit it has the fewest GPU-seconds left",
       .preempt_reason = "jobs with fewer GPU-seconds left need its GPUs"});
}

}  // namespace tide::sched

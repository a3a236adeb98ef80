// srtf, shortest remaining time first (published as "shortest"), with preemption at no cost.
#include "sched/cluster_policies.h"
#include "sched/shortest_first.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeSrtf(const ClusterPolicyOptions&) {
  return MakeShortestFirst({.by_gpu_time = false,
                            .start_reason = "of the jobs that fit it has the least time left",
                            .preempt_reason = "jobs with less time left need its GPUs"});
}

}  // namespace tide::sched

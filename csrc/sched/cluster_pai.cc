// pai, shortest job first by group history: predicted seconds, misfits are passed over.
#include "sched/cluster_policies.h"
#include "sched/predicted_order.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakePai(const ClusterPolicyOptions&) {
  return MakePredictedOrder({.by_gpu_time = false,
                             .stop_at_misfit = false,
                             .reason = "of the jobs that fit, jobs like it took the least time"});
}

}  // namespace tide::sched

// qssf, quasi-shortest service first (Helios): predicted GPU-seconds, stops at the first misfit.
#include "sched/cluster_policies.h"
#include "sched/predicted_order.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeQssf(const ClusterPolicyOptions&) {
  return MakePredictedOrder({.by_gpu_time = true,
                             .stop_at_misfit = true,
                             .reason = "jobs like it took the fewest GPU-seconds, and it fits"});
}

}  // namespace tide::sched

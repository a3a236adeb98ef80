// gavel-water-filling (max_min_fairness_water_filling_perf): max-min, then again for who can gain.
#include "sched/cluster_policies.h"
#include "sched/gavel.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeGavelWaterFillingPolicy(const ClusterPolicyOptions& options) {
  return MakeGavelPolicy({.shares = GavelWaterFilling,
                          .packed = false,
                          .round_s = options.round_s > 0 ? options.round_s : 360,
                          .strict_rounds = options.strict_rounds});
}

}  // namespace tide::sched

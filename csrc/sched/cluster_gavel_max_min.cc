// gavel-max-min (max_min_fairness_perf): the least normalised throughput is as large as can be.
#include "sched/cluster_policies.h"
#include "sched/gavel.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeGavelMaxMinPolicy(const ClusterPolicyOptions& options) {
  return MakeGavelPolicy({.shares = GavelMaxMin,
                          .packed = false,
                          .round_s = options.round_s > 0 ? options.round_s : 360,
                          .strict_rounds = options.strict_rounds});
}

}  // namespace tide::sched

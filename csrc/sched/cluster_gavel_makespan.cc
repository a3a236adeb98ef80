// gavel-makespan (min_total_duration_perf): all jobs end together, as early as can be.
#include "sched/cluster_policies.h"
#include "sched/gavel.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeGavelMakespanPolicy(const ClusterPolicyOptions& options) {
  return MakeGavelPolicy({.shares = GavelMakespan,
                          .packed = false,
                          .round_s = options.round_s > 0 ? options.round_s : 360,
                          .strict_rounds = options.strict_rounds});
}

}  // namespace tide::sched

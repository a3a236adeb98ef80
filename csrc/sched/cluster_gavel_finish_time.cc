// gavel-finish-time (finish_time_fairness_perf): the worst finish-time ratio is as small as can be.
#include "sched/cluster_policies.h"
#include "sched/gavel.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeGavelFinishTimePolicy(const ClusterPolicyOptions& options) {
  return MakeGavelPolicy({.shares = GavelFinishTime,
                          .packed = false,
                          .round_s = options.round_s > 0 ? options.round_s : 360,
                          .strict_rounds = options.strict_rounds});
}

}  // namespace tide::sched

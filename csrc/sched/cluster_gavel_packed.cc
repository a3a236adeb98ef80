// gavel-packed (max_min_fairness_packed): max-min in which pairs of jobs may share GPUs.
#include "sched/cluster_policies.h"
#include "sched/gavel.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeGavelPackedPolicy(const ClusterPolicyOptions& options) {
  return MakeGavelPolicy({.shares = GavelMaxMin,
                          .packed = true,
                          .round_s = options.round_s > 0 ? options.round_s : 360,
                          .strict_rounds = options.strict_rounds});
}

}  // namespace tide::sched

// gavel-cost: the sum of throughput over the cost of the GPUs is as large as can be.
#include "sched/cluster_policies.h"
#include "sched/gavel.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeGavelCostPolicy(const ClusterPolicyOptions& options) {
  return MakeGavelPolicy({.shares = GavelCost,
                          .packed = false,
                          .round_s = options.round_s > 0 ? options.round_s : 360,
                          .strict_rounds = options.strict_rounds});
}

}  // namespace tide::sched

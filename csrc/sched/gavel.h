// What Gavel's policies on several types of GPU share: rounds in which whoever has had the least of
// its share of a type goes first there.
#pragma once

#include <memory>

#include "sched/cluster_policy.h"
#include "sched/gavel_shares.h"

namespace tide::sched {

struct GavelOptions {
  absl::StatusOr<GavelShares> (*shares)(const GavelProblem& problem) = nullptr;
  bool packed = false;  // pairs of jobs may share GPUs
  double round_s = 360;
  bool strict_rounds = false;  // GPUs that come free wait for the next round, as published
};

std::unique_ptr<ClusterPolicy> MakeGavelPolicy(const GavelOptions& options);

}  // namespace tide::sched

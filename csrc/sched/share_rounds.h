// What Gavel's policies share: rounds in which the job furthest behind its share goes first.
#pragma once

#include <memory>
#include <vector>

#include "sched/cluster_policy.h"
#include "sched/shares.h"

namespace tide::sched {

struct ShareRoundsOptions {
  std::vector<double> (*shares)(absl::Span<const ShareDemand> jobs, double gpus) = nullptr;
  double round_s = 360;
  const char* start_reason = "";
  const char* preempt_reason = "";
};

/// Solves for the shares at the start of each round; a job's priority is its share over the part of
/// its life in which it ran.
std::unique_ptr<ClusterPolicy> MakeShareRounds(const ShareRoundsOptions& options);

}  // namespace tide::sched

// What srtf and srsf share: all GPUs are dealt out anew at each event, the least remaining first.
#pragma once

#include <memory>

#include "sched/cluster_policy.h"

namespace tide::sched {

struct ShortestFirstOptions {
  bool by_gpu_time = false;   // remaining GPU-seconds rather than seconds
  double restart_cost_s = 0;  // a running job counts as this much shorter than it is
  const char* start_reason = "";
  const char* preempt_reason = "";
};

/// Order and ties are those of a list that is sorted stably at each event: of two jobs with equal
/// remaining work the one that was ahead at the event before stays ahead.
std::unique_ptr<ClusterPolicy> MakeShortestFirst(const ShortestFirstOptions& options);

}  // namespace tide::sched

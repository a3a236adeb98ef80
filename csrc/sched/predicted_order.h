// What qssf and pai share: no preemption, order by a duration predicted from finished jobs.
#pragma once

#include <memory>

#include "sched/cluster_policy.h"

namespace tide::sched {

struct PredictedOrderOptions {
  bool by_gpu_time = false;     // predicted GPU-seconds rather than seconds
  bool stop_at_misfit = false;  // the first that does not fit holds up the rest
  const char* reason = "";
};

/// A job's prediction is made when it arrives (or returns after a fault) and stays. Equal ones go
/// in order of submission.
std::unique_ptr<ClusterPolicy> MakePredictedOrder(const PredictedOrderOptions& options);

}  // namespace tide::sched

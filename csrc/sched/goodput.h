// What a change of a job's GPUs costs in goodput, as Pollux and Sia count it.
#pragma once

#include <algorithm>

#include "sched/cluster_policy.h"

namespace tide::sched {

/// The part of its life that a job would have used had it been restarted once more: young jobs are
/// moved less readily than old ones. 1 for a job that does not run: there is nothing to lose.
inline double RestartFactor(const JobView& job, double now_s, double restart_cost_s) {
  if (job.state != JobState::kRunning) return 1;
  const double age_s = now_s - job.submit_s;
  return std::max(0.0, age_s) / (std::max(0.0, age_s) + restart_cost_s);
}

}  // namespace tide::sched

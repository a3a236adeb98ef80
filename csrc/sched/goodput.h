// Goodput as Pollux and Sia count it: the best batch of a size, and what a change of GPUs costs.
#pragma once

#include <algorithm>

#include "sched/cluster_policy.h"

namespace tide::sched {

/// Examples a step with which a job does most on so many GPUs; 0: nothing is known but its own.
inline double BatchOf(const JobView& job, const Profiles* profiles, int gpus) {
  if (profiles == nullptr || job.profile < 0) return 0;
  const BatchModel& batch = profiles->of[job.profile].batch;
  return batch.known() ? batch.BestBatch(gpus) : 0;
}

/// Speed with that batch, over the speed with its gang and its own batch.
inline double GoodputOf(const JobView& job, const Profiles* profiles, int gpus) {
  return SpeedOf(job, profiles, gpus, BatchOf(job, profiles, gpus));
}

/// The part of its life that a job would have used had it been restarted once more: young jobs are
/// moved less readily than old ones. 1 for a job that does not run: there is nothing to lose.
inline double RestartFactor(const JobView& job, double now_s, double restart_cost_s) {
  if (job.state != JobState::kRunning) return 1;
  const double age_s = now_s - job.submit_s;
  return std::max(0.0, age_s) / (std::max(0.0, age_s) + restart_cost_s);
}

}  // namespace tide::sched

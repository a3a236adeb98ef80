// The figures of a replay by which policies are compared.
#pragma once

#include "sim/replay.h"

namespace tide::sim {

struct Summary {
  int jobs_done = 0, jobs_refused = 0, jobs = 0;
  double avg_jct_s = 0, median_jct_s = 0, p99_jct_s = 0, makespan_s = 0;
  double avg_wait_s = 0;
  double utilisation = 0;  // GPU-seconds in use over those there were until the last completion
};

/// The element [n * q] of the sorted values, as the published simulators count; 0 of none.
double Quantile(std::vector<double> values, double q);

Summary Summarise(const Trace& trace, const ReplayResult& result, int gpus);

}  // namespace tide::sim

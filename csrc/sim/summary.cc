// Means and quantiles by the rules of the published simulators.
#include "sim/summary.h"

#include <algorithm>
#include <numeric>

namespace tide::sim {

double Quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  const size_t index =
      std::min(static_cast<size_t>(static_cast<double>(values.size()) * q), values.size() - 1);
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(index), values.end());
  return values[index];
}

Summary Summarise(const Trace& trace, const ReplayResult& result, int gpus) {
  Summary summary;
  summary.jobs = static_cast<int>(trace.jobs.size());
  summary.jobs_done = static_cast<int>(result.jct_s.size());
  summary.jobs_refused = static_cast<int>(result.refused.size());
  summary.makespan_s = result.makespan_s;
  if (summary.jobs_done > 0) {
    summary.avg_jct_s =
        std::accumulate(result.jct_s.begin(), result.jct_s.end(), 0.0) / summary.jobs_done;
    summary.avg_wait_s = result.wait_s / summary.jobs_done;
  }
  summary.median_jct_s = Quantile(result.jct_s, 0.5);
  summary.p99_jct_s = Quantile(result.jct_s, 0.99);
  if (result.makespan_s > 0) {
    summary.utilisation =
        result.gpu_seconds_used / (result.makespan_s * gpus + result.gpu_seconds_lent);
  }
  return summary;
}

}  // namespace tide::sim

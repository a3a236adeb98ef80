// One type of GPU makes each problem a search for one number.
#include "sched/shares.h"

#include <algorithm>
#include <limits>

namespace tide::sched {
namespace {

double Used(absl::Span<const ShareDemand> jobs, const std::vector<double>& shares) {
  double used = 0;
  for (size_t i = 0; i < jobs.size(); ++i) used += jobs[i].gpus * shares[i];
  return used;
}

// What each job needs so that nobody's rho exceeds `rho`; one who cannot reach it gets everything.
std::vector<double> SharesAtRho(absl::Span<const ShareDemand> jobs, double rho) {
  std::vector<double> shares;
  shares.reserve(jobs.size());
  for (const ShareDemand& job : jobs) {
    const double left_s = rho * job.alone_s - job.elapsed_s;
    const bool reachable = left_s > job.remaining_s;
    shares.push_back(job.remaining_s <= 0 ? 0 : reachable ? job.remaining_s / left_s : 1);
  }
  return shares;
}

}  // namespace

std::vector<double> MaxMinShares(absl::Span<const ShareDemand> jobs, double gpus) {
  std::vector<int> sizes;
  for (const ShareDemand& job : jobs) sizes.push_back(job.gpus);
  std::sort(sizes.begin(), sizes.end());
  // The level of the water: sizes below it are satisfied, the others get the level each.
  double level = std::numeric_limits<double>::infinity();
  double left = gpus;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const double equal = left / static_cast<double>(sizes.size() - i);
    if (sizes[i] > equal) {
      level = equal;
      break;
    }
    left -= sizes[i];
  }
  std::vector<double> shares;
  shares.reserve(jobs.size());
  for (const ShareDemand& job : jobs) shares.push_back(std::min(1.0, level / job.gpus));
  return shares;
}

std::vector<double> MakespanShares(absl::Span<const ShareDemand> jobs, double gpus) {
  double end_s = 0, gpu_seconds = 0;
  for (const ShareDemand& job : jobs) {
    end_s = std::max(end_s, job.remaining_s);
    gpu_seconds += job.gpus * job.remaining_s;
  }
  end_s = std::max(end_s, gpu_seconds / gpus);
  std::vector<double> shares;
  shares.reserve(jobs.size());
  for (const ShareDemand& job : jobs) shares.push_back(end_s > 0 ? job.remaining_s / end_s : 1);
  return shares;
}

std::vector<double> FinishTimeShares(absl::Span<const ShareDemand> jobs, double gpus) {
  // The best that the worst-off job can have with all it asks for; nobody needs to be better off.
  double low = 0;
  for (const ShareDemand& job : jobs) {
    low = std::max(low, (job.elapsed_s + job.remaining_s) / job.alone_s);
  }
  if (Used(jobs, SharesAtRho(jobs, low)) <= gpus) return SharesAtRho(jobs, low);
  double high = 2 * low;
  while (Used(jobs, SharesAtRho(jobs, high)) > gpus) high *= 2;
  while (high - low > 1e-9 * high) {
    const double middle = (low + high) / 2;
    (Used(jobs, SharesAtRho(jobs, middle)) > gpus ? low : high) = middle;
  }
  return SharesAtRho(jobs, high);
}

}  // namespace tide::sched

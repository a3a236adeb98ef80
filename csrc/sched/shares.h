// Which share of the time each job should run: the closed forms of Gavel's problems on one type of
// GPU.
#pragma once

#include <vector>

#include "absl/types/span.h"

namespace tide::sched {

/// A job as the problems see it. The unknown is x in [0, 1], the share of the time that it runs;
/// the sum of gpus * x may not exceed the cluster.
struct ShareDemand {
  int gpus = 1;
  double elapsed_s = 0;    // since submission
  double remaining_s = 0;  // of service
  double alone_s = 1;      // completion time with an equal share from the start
};

/// max min_j gpus_j * x_j: everybody gets the same GPU time, what one cannot use goes to the others
/// (water filling).
std::vector<double> MaxMinShares(absl::Span<const ShareDemand> jobs, double gpus);

/// min max_j remaining_j / x_j: all end together, as early as possible.
std::vector<double> MakespanShares(absl::Span<const ShareDemand> jobs, double gpus);

/// min max_j (elapsed_j + remaining_j / x_j) / alone_j, finish-time fairness, by bisection to a
/// relative 1e-9.
std::vector<double> FinishTimeShares(absl::Span<const ShareDemand> jobs, double gpus);

}  // namespace tide::sched

// Which share of the time each job, or pair of jobs, should have on each type of GPU: Gavel's
// problems (OSDI 2020) as linear programs.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace tide::sched {

struct GavelJob {
  int gpus = 1;
  double weight = 1;
  std::vector<double> speed;  // on each type, alone
  double remaining_s = 0;     // of service at speed 1
  double elapsed_s = 0;       // since submission
  double isolated_s = 0;      // what it has done so far would have taken this long on its own part
};

/// A job or two that share GPUs.
struct GavelUnit {
  std::vector<int> jobs;                   // indices; all of one size
  std::vector<std::vector<double>> speed;  // of each of the jobs, on each type
};

struct GavelProblem {
  std::vector<GavelJob> jobs;
  std::vector<GavelUnit> units;
  std::vector<double> gpus;  // of each type
  std::vector<double> cost;  // of a GPU of each type
};

/// [unit][type], each at least 0; a job's sum over its units and types at most 1, a type's at most
/// its GPUs.
using GavelShares = std::vector<std::vector<double>>;

/// max min_j gpus_j * throughput_j / (weight_j * throughput_j with GPUs in proportion).
absl::StatusOr<GavelShares> GavelMaxMin(const GavelProblem& problem);
/// The same again and again for those who can still be better off, until none can.
absl::StatusOr<GavelShares> GavelWaterFilling(const GavelProblem& problem);
/// min max_j remaining_j / throughput_j.
absl::StatusOr<GavelShares> GavelMakespan(const GavelProblem& problem);
/// min max_j (elapsed_j + remaining_j / throughput_j) / (isolated_j + remaining_j / isolated
/// throughput_j), by bisection to 1e-4.
absl::StatusOr<GavelShares> GavelFinishTime(const GavelProblem& problem);
/// max sum of throughput, and of throughput over the cost of the GPUs.
absl::StatusOr<GavelShares> GavelThroughput(const GavelProblem& problem);
absl::StatusOr<GavelShares> GavelCost(const GavelProblem& problem);

/// Throughput of a job under `shares`, speed 1 being the type that durations are of.
double GavelSpeed(const GavelProblem& problem, const GavelShares& shares, int job);
/// Of a job that has its equal part of every type.
double GavelIsolatedSpeed(const GavelProblem& problem, int job);

}  // namespace tide::sched

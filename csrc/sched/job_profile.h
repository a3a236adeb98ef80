// What is known of how programs behave: speed by number and type of GPUs, stages of an iteration,
// memory.
#pragma once

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace tide::sched {

inline constexpr int kStages = 4;       // of an iteration: storage, CPU, GPU, network
inline constexpr int kShareMax = 4;     // jobs on the same GPUs
inline constexpr int kGpuTypesMax = 8;  // in one cluster

/// How long a step of a program takes with a batch on so many GPUs, and what a larger batch is
/// worth (Pollux, OSDI 2021): computing takes step_s and example_s for each example of a GPU,
/// exchanging gradients sync_s on two GPUs and sync_gpu_s more for each further one; the step takes
/// (computing^overlap + exchange^overlap)^(1/overlap). Batches are examples of all GPUs together.
struct BatchModel {
  double own = 0;    // batch that the job asks for; 0: nothing is known
  double most = 0;   // that it may be given; below its own: its own
  double noise = 0;  // gradient noise scale, in examples
  double step_s = 0, example_s = 0, sync_s = 0, sync_gpu_s = 0;
  double overlap = 1;  // from 1, where nothing overlaps

  bool known() const { return own > 0 && example_s > 0; }
  /// Examples a second.
  double Throughput(int gpus, double batch) const;
  /// What an example is worth over one in the job's own batch: (noise + own) / (noise + batch).
  double Efficiency(double batch) const { return (noise + own) / (noise + batch); }
  double Goodput(int gpus, double batch) const {
    return Throughput(gpus, batch) * Efficiency(batch);
  }
  /// From its own to the most: the one of the best goodput. Exact without overlap, else to a
  /// relative 1e-6.
  double BestBatch(int gpus) const;
};

/// Speed by how much a GPU has of something, ascending, over the speed with enough; from nothing at
/// 0 straight lines between the points. Empty: it does not matter.
using SpeedCurve = std::vector<std::pair<double, double>>;
double SpeedAt(const SpeedCurve& curve, double amount);
/// The least with which it is as fast as with any more.
double EnoughOf(const SpeedCurve& curve);

/// How one program behaves; jobs of a model share one. What is empty or zero is not known.
struct JobProfile {
  std::vector<double> speed;       // [k - 1]: progress with k GPUs, any unit; beyond: as at the end
  std::vector<double> type_speed;  // on each type of GPU, over the type that durations are of
  std::array<double, kStages> stage_s{};  // of one iteration alone
  double busy = 1;                        // share of the time that the GPUs work, alone
  double memory_gib = 0;                  // a GPU: what stays between iterations
  double scratch_gib = 0;                 // a GPU: what an iteration needs beyond
  std::vector<double> memory_speed;       // speed with a tenth, two tenths.. of the memory; full: 1
  BatchModel batch;                       // in place of `speed`
  SpeedCurve cpu_speed, host_speed;       // by CPUs, by GiB of the machine's memory, of each GPU

  bool has_stages() const {
    return std::any_of(stage_s.begin(), stage_s.end(), [](double stage) { return stage > 0; });
  }
  bool has_speed() const { return !speed.empty() || batch.known(); }
  /// Throughput with `gpus` and its own batch, in the unit of `speed` or in examples a second; 0 of
  /// none.
  double SpeedWith(int gpus) const {
    if (gpus > 0 && batch.known()) return batch.Throughput(gpus, batch.own);
    if (gpus <= 0 || speed.empty()) return 0;
    return speed[std::min(static_cast<size_t>(gpus), speed.size()) - 1];
  }
};

/// Speeds of the first and the second of two programs that share GPUs, over their speeds alone.
using PairSpeeds = std::pair<double, double>;

struct Profiles {
  std::vector<JobProfile> of;
  /// By (first, second) program, first <= second, and type of GPU; what is not here is computed
  /// from stages or from how busy the GPUs are.
  absl::flat_hash_map<std::array<int, 3>, PairSpeeds> pairs;
  double gpu_memory_gib = 0;  // 0: memory is never short
  /// An iteration of n jobs that share takes this many times as long as the stages say; [n - 1].
  std::array<double, kShareMax> share_cost{1, 1, 1, 1};
};

}  // namespace tide::sched

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

/// How one program behaves; jobs of a model share one. What is empty or zero is not known.
struct JobProfile {
  std::vector<double> speed;       // [k - 1]: progress with k GPUs, any unit; beyond: as at the end
  std::vector<double> type_speed;  // on each type of GPU, over the type that durations are of
  std::array<double, kStages> stage_s{};  // of one iteration alone
  double busy = 1;                        // share of the time that the GPUs work, alone
  double memory_gib = 0;                  // a GPU: what stays between iterations
  double scratch_gib = 0;                 // a GPU: what an iteration needs beyond
  std::vector<double> memory_speed;       // speed with a tenth, two tenths.. of the memory; full: 1

  bool has_stages() const {
    return std::any_of(stage_s.begin(), stage_s.end(), [](double stage) { return stage > 0; });
  }
  /// Throughput with `gpus` in the unit of `speed`; 0 of none.
  double SpeedWith(int gpus) const {
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

// How many GPUs were in use when, in a bounded number of points.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace tide::sim {

/// Thins by halves: when there are too many points every second one goes, and from then on only
/// every second event is one.
class UsageCurve {
 public:
  void Note(int64_t event, double now_s, int used) {
    if (event % stride_ != 0) return;
    points_.emplace_back(now_s, used);
    if (points_.size() < kPointsMax) return;
    for (size_t i = 0; 2 * i < points_.size(); ++i) points_[i] = points_[2 * i];
    points_.resize(kPointsMax / 2);
    stride_ *= 2;
  }
  std::vector<std::pair<double, int>> Take() { return std::move(points_); }

 private:
  static constexpr size_t kPointsMax = 4096;
  std::vector<std::pair<double, int>> points_;
  int64_t stride_ = 1;
};

}  // namespace tide::sim

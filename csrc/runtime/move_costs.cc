#include "runtime/move_costs.h"

#include <algorithm>

namespace tide::runtime {
namespace {

// Below it, two of PyTorch's large pages, calls of the driver weigh as much as the bytes.
constexpr Bytes kSmall = MiB(40);
// What a kind of work is given at least of a move, where others explain all of it.
constexpr double kShareMin = 0.1;
// What a measurement counts after the next one. Of 0, 0.5, 0.7 and 0.8 the last had the smallest
// errors for moves of 160 to 640 MiB on a busy machine of two cores.
constexpr double kKept = 0.8;
// Sizes that spread less, by their relative variance, say nothing of what is fixed.
constexpr double kSpreadMin = 0.01;

double Mean(double known, double measured) { return 0.5 * known + 0.5 * measured; }

}  // namespace

void MoveCosts::Slope::Learn(Bytes bytes, double seconds) {
  const double now = seconds / static_cast<double>(bytes.value());
  seconds_per_byte = measured ? Mean(seconds_per_byte, now) : now;
  measured = true;
}

double MoveCosts::Line::Of(Bytes bytes) const {
  return fixed_s + seconds_per_byte * static_cast<double>(bytes.value());
}

void MoveCosts::Line::Learn(Bytes bytes, double seconds) {
  const auto size = static_cast<double>(bytes.value());
  if (!measured && bytes < kSmall) {  // of a slope it would say nothing
    fixed_s = Mean(fixed_s, std::max(seconds - seconds_per_byte * size, 0.0));
    return;
  }
  measured = true;
  const double counts = 1 / (seconds * seconds);
  weight = kKept * weight + counts;
  x = kKept * x + counts * size;
  y = kKept * y + counts * seconds;
  xx = kKept * xx + counts * size * size;
  xy = kKept * xy + counts * size * seconds;
  fixed_s = 0;
  seconds_per_byte = xy / xx;
  const double spread = weight * xx - x * x;
  if (spread < kSpreadMin * weight * xx) return;
  const double slope = (weight * xy - x * y) / spread;
  const double start = (y - slope * x) / weight;
  if (slope <= 0 || start < 0) return;
  fixed_s = start;
  seconds_per_byte = slope;
}

double MoveCosts::Predict(const MoveWork& work) const {
  if (work.total() <= Bytes(0)) return 0;
  absl::MutexLock lock(&mu_);
  return copy_.Of(work.pinned) + file_.Of(work.file) + made_.Of(work.made);
}

void MoveCosts::Note(const MoveWork& work, double seconds) {
  if (work.total() <= Bytes(0) || seconds <= 0) return;
  absl::MutexLock lock(&mu_);
  const bool in_file = work.file > work.pinned;
  const bool making = !in_file && work.made + work.made > work.pinned;
  const double copy = copy_.Of(work.pinned), file = file_.Of(work.file), made = made_.Of(work.made);
  const double least = kShareMin * seconds;
  if (!in_file && !making) {
    copy_.Learn(work.pinned, std::max(seconds - file - made, least));
  } else if (work.total() < kSmall) {
    return;  // more fixed time than bytes
  } else if (in_file) {
    file_.Learn(work.file, std::max(seconds - copy - made, least));
  } else {
    made_.Learn(work.made, std::max(seconds - copy - file, least));
  }
}

}  // namespace tide::runtime

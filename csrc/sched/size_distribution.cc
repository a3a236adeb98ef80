// Prefix sums over the sorted sizes make each question two binary searches.
#include "sched/size_distribution.h"

#include <algorithm>
#include <cstddef>

namespace tide::sched {

void SizeDistribution::Settle() {
  if (fresh_.empty()) return;
  std::sort(fresh_.begin(), fresh_.end());
  const auto middle = static_cast<ptrdiff_t>(sizes_.size());
  sizes_.insert(sizes_.end(), fresh_.begin(), fresh_.end());
  std::inplace_merge(sizes_.begin(), sizes_.begin() + middle, sizes_.end());
  fresh_.clear();
  Sum();
}

void SizeDistribution::Sum() {
  sums_.assign(1, 0);
  for (const double size : sizes_) sums_.push_back(sums_.back() + size);
}

void SizeDistribution::VisitFields(FieldArchive& archive) {
  archive(sizes_, fresh_);
  if (archive.reading()) Sum();
}

double SizeDistribution::GittinsIndex(double attained, double quantum) {
  Settle();
  const auto above = std::upper_bound(sizes_.begin(), sizes_.end(), attained);
  const auto beyond = std::upper_bound(above, sizes_.end(), attained + quantum);
  const auto larger = static_cast<double>(sizes_.end() - above);
  if (larger == 0) return 1 / quantum;
  const auto first = static_cast<size_t>(above - sizes_.begin());
  const auto last = static_cast<size_t>(beyond - sizes_.begin());
  const auto ending = static_cast<double>(last - first);
  const double spent = sums_[last] - sums_[first] - ending * attained + (larger - ending) * quantum;
  return ending / spent;
}

}  // namespace tide::sched

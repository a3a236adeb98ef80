// Sizes of finished jobs as a distribution, and what it says about those that have run for a while.
#pragma once

#include <vector>

#include "base/field_archive.h"

namespace tide::sched {

/// Sizes are GPU-seconds. Adding is cheap; the first question after it sorts what is new.
class SizeDistribution {
 public:
  void Add(double size) { fresh_.push_back(size); }
  /// The Gittins index of a job that has had `attained`: the chance that it ends within `quantum`
  /// more, over the service expected to be spent on that; 1/quantum when no finished job was
  /// larger.
  double GittinsIndex(double attained, double quantum);
  void VisitFields(FieldArchive& archive);

 private:
  void Settle();
  void Sum();
  std::vector<double> sizes_, sums_;  // sorted; sums_[i] is the sum of the first i
  std::vector<double> fresh_;
};

}  // namespace tide::sched

// Running jobs filed by node and, where they are elastic, by who may give a device back or take
// one.
#pragma once

#include <set>
#include <utility>
#include <vector>

#include "coordinator/cluster_types.h"

namespace tide::coordinator {

/// What a job has and may have. A value.
struct PlacedJob {
  JobIndex job;
  const Placement& placement;  // borrowed for the call
  int gang = 0;
  int devices_max = 0;  // not above the gang: it is not elastic
};

/// A change costs the logarithm of the jobs for each node of the placement. To change a placement:
/// Remove with what it was, then Add with what it is.
class PlacementIndex {
 public:
  void Add(const PlacedJob& placed);
  void Remove(const PlacedJob& placed);

  /// Who has devices of a node, by index.
  const std::set<JobIndex>& On(NodeIndex node) const;
  /// The elastic job with most devices beyond its gang, the oldest of equals; negative: none.
  JobIndex MostExtra() const { return extra_.empty() ? JobIndex() : extra_.begin()->second; }
  /// Elastic jobs beyond their gangs, by minus the devices beyond, those with most first.
  const std::set<std::pair<int, JobIndex>>& extra() const { return extra_; }
  /// Elastic jobs below their maximum, by devices over gang, the oldest of equals first.
  const std::set<std::pair<double, JobIndex>>& growable() const { return growable_; }

 private:
  std::vector<std::set<JobIndex>> by_node_;
  std::set<std::pair<int, JobIndex>> extra_;  // by devices beyond the gang, negated
  std::set<std::pair<double, JobIndex>> growable_;
};

}  // namespace tide::coordinator

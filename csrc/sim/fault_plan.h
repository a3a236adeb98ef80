// Which nodes fail when, in order of time.
#pragma once

#include <algorithm>
#include <vector>

#include "sched/cluster_policy.h"
#include "sim/cluster_spec.h"

namespace tide::sim {

struct NodeChange {
  double at_s = 0;
  int node = 0;
  FaultKind kind = FaultKind::kNode;
  double speed = 1;  // while it lasts, of a node that is slow
  bool works = false;
};

class FaultPlan {
 public:
  /// Faults of one kind and node may overlap; it works again when the last of them is over.
  explicit FaultPlan(const std::vector<NodeFault>& faults);
  double NextTime() const { return next_ < changes_.size() ? changes_[next_].at_s : sched::kNever; }
  NodeChange Pop() { return changes_[next_++]; }

 private:
  std::vector<NodeChange> changes_;
  size_t next_ = 0;
};

}  // namespace tide::sim

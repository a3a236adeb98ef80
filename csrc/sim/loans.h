// Machines that another cluster lends: which come when, and which go back.
#pragma once

#include <set>
#include <vector>

#include "absl/types/span.h"
#include "sched/cluster_policy.h"
#include "sim/cluster_spec.h"
#include "sim/holdings.h"

namespace tide::sim {

/// Lent machines have the numbers after the cluster's own; which of them come is the lowest that
/// are away, which go back is the policy's choice.
class Loans {
 public:
  explicit Loans(const ClusterSpec& cluster);
  double NextTime() const { return next_ < steps_.size() ? steps_[next_].at_s : sched::kNever; }

  struct Change {
    std::vector<int> come, go;
    bool shrinks = false;  // elastic jobs that can do with less leave what goes
  };
  Change Pop(const sched::ClusterPolicy& policy, const Holdings& holdings,
             absl::Span<const sched::JobView> jobs, const sched::Profiles& profiles);

 private:
  struct Step {
    double at_s = 0;
    int lent = 0;  // from then on
  };
  std::vector<Step> steps_;
  size_t next_ = 0;
  std::set<int> here_, away_;
};

}  // namespace tide::sim

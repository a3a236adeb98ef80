// Joins overlapping faults of a node, then lists failures and repairs by time.
#include "sim/fault_plan.h"

#include <map>

namespace tide::sim {

FaultPlan::FaultPlan(const std::vector<NodeFault>& faults) {
  std::map<int, std::vector<std::pair<double, double>>> by_node;
  for (const NodeFault& fault : faults) {
    by_node[fault.node].emplace_back(fault.at_s, fault.at_s + fault.for_s);
  }
  for (auto& [node, spans] : by_node) {
    std::sort(spans.begin(), spans.end());
    for (size_t i = 0; i < spans.size();) {
      const double from_s = spans[i].first;
      double to_s = spans[i].second;
      for (++i; i < spans.size() && spans[i].first <= to_s; ++i) {
        to_s = std::max(to_s, spans[i].second);
      }
      changes_.push_back({.at_s = from_s, .node = node, .works = false});
      changes_.push_back({.at_s = to_s, .node = node, .works = true});
    }
  }
  std::stable_sort(changes_.begin(), changes_.end(),
                   [](const NodeChange& a, const NodeChange& b) { return a.at_s < b.at_s; });
}

}  // namespace tide::sim

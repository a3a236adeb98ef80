// Joins overlapping faults of a node, then lists failures and repairs by time.
#include "sim/fault_plan.h"

#include <map>

namespace tide::sim {

FaultPlan::FaultPlan(const std::vector<NodeFault>& faults) {
  std::map<std::pair<FaultKind, int>, std::vector<NodeFault>> by_node;
  for (const NodeFault& fault : faults) by_node[{fault.kind, fault.node}].push_back(fault);
  for (auto& [key, spans] : by_node) {
    std::sort(spans.begin(), spans.end(),
              [](const NodeFault& a, const NodeFault& b) { return a.at_s < b.at_s; });
    for (size_t i = 0; i < spans.size();) {
      NodeChange change{
          .at_s = spans[i].at_s, .node = key.second, .kind = key.first, .speed = spans[i].speed};
      double to_s = spans[i].at_s + spans[i].for_s;
      for (++i; i < spans.size() && spans[i].at_s <= to_s; ++i) {
        to_s = std::max(to_s, spans[i].at_s + spans[i].for_s);
        change.speed = std::min(change.speed, spans[i].speed);
      }
      changes_.push_back(change);
      change.at_s = to_s;
      change.works = true;
      changes_.push_back(change);
    }
  }
  std::stable_sort(changes_.begin(), changes_.end(),
                   [](const NodeChange& a, const NodeChange& b) { return a.at_s < b.at_s; });
}

}  // namespace tide::sim

// Which devices of which nodes are free, and where a gang goes.
#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "coordinator/cluster_types.h"

namespace tide::coordinator {

/// A gang goes back to where it was when there is room, else to the fullest node that takes it
/// whole, else over the nodes with most free devices: whatever fits by count is placed.
class ClusterDevices {
 public:
  struct Node {
    std::string name;
    int devices = 0, used = 0;
    bool works = false;
    int free() const { return works ? devices - used : 0; }
  };

  /// The node of that name, made when it is new; then its size and whether it works are set. The
  /// caller takes away what no longer fits first.
  NodeIndex Set(const std::string& name, int devices, bool works);
  /// `devices` must not exceed free().
  Placement Take(int devices, const Placement& before);
  void Give(const Placement& placement);
  /// One more or one less on a job's placement. Add needs free() > 0 and prefers its own nodes.
  void AddOne(Placement& placement);
  void RemoveOne(Placement& placement);

  const Node* Find(const std::string& name) const;
  const std::vector<Node>& nodes() const { return nodes_; }
  NodeIndex IndexOf(const std::string& name) const;
  int free() const { return free_; }
  int working() const { return working_; }
  void VisitFields(FieldArchive& archive);

 private:
  void Use(NodeIndex node, int devices);
  void TakeFrom(NodeIndex node, int devices, Placement& placement);

  std::vector<Node> nodes_;
  absl::flat_hash_map<std::string, NodeIndex> by_name_;
  std::set<std::pair<int, NodeIndex>> by_free_;  // working nodes with something free
  int free_ = 0, working_ = 0;
};

}  // namespace tide::coordinator

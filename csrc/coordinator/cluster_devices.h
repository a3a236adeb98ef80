// Which devices of which nodes are free, and where a gang goes.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "coordinator/cluster_types.h"

namespace tide::coordinator {

/// A gang goes back to where it was when there is room, else to the fullest node that takes it
/// whole, else over the nodes with most free devices: whatever fits by count is placed. A node that
/// drains has no free devices.
class ClusterDevices {
 public:
  struct Node {
    std::string name;
    int devices = 0, used = 0;
    bool works = false;
    bool drains = false;  // nothing is placed there any more
    int free() const { return works && !drains ? devices - used : 0; }
    int withheld() const { return works && drains ? devices - used : 0; }
  };
  using Allowed = std::function<bool(NodeIndex)>;

  /// The node of that name, made when it is new; then its size and whether it works are set. The
  /// caller takes away what no longer fits first.
  NodeIndex Set(const std::string& name, int devices, bool works);
  void SetDrains(NodeIndex node, bool drains);
  /// `devices` must not exceed free().
  Placement Take(int devices, const Placement& before);
  /// The same on some nodes, of which `devices` must be free.
  Placement TakeOn(int devices, const Allowed& allowed);
  int FreeOn(const Allowed& allowed) const;
  void Give(const Placement& placement);
  /// One more or one less on a job's placement. Add needs free() > 0 and prefers its own nodes.
  void AddOne(Placement& placement);
  void RemoveOne(Placement& placement, NodeIndex from);

  const Node* Find(const std::string& name) const;
  const std::vector<Node>& nodes() const { return nodes_; }
  NodeIndex IndexOf(const std::string& name) const;
  int free() const { return free_; }
  int working() const { return working_; }
  /// Of nodes that drain: what nobody uses, and the number of those nodes.
  int withheld() const { return withheld_; }
  int draining() const { return draining_; }
  /// "2 on m1, 1 on m2", of a bounded length.
  std::string Words(const Placement& placement) const;
  void VisitFields(FieldArchive& archive);

 private:
  void Count(const Node& node, int sign);
  void Use(NodeIndex node, int devices);
  void TakeFrom(NodeIndex node, int devices, Placement& placement);

  std::vector<Node> nodes_;
  absl::flat_hash_map<std::string, NodeIndex> by_name_;
  std::set<std::pair<int, NodeIndex>> by_free_;  // working nodes with something free
  int free_ = 0, working_ = 0, withheld_ = 0, draining_ = 0;
};

}  // namespace tide::coordinator

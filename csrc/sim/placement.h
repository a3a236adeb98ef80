// Which GPUs of which nodes a gang gets: counted only, or consolidated on nodes.
#pragma once

#include <vector>

#include "absl/container/inlined_vector.h"

namespace tide::sim {

/// GPUs of one gang on one node.
struct NodeShare {
  int node = 0;
  int gpus = 0;
};
using Allocation = absl::InlinedVector<NodeShare, 2>;

/// Free GPUs by node. A gang goes to the fullest node that takes it whole; one larger than a node
/// takes empty nodes and the rest from the fullest node that has it; when neither is possible, it
/// is spread over the nodes with the most free GPUs, so whatever fits by count is placed.
class Nodes {
 public:
  Nodes(int nodes, int gpus_per_node);
  /// `gpus` must not exceed free().
  Allocation Take(int gpus);
  void Give(const Allocation& allocation);
  /// A failed node has nothing free and takes back nothing that can be used until it is repaired.
  void Fail(int node);
  void Repair(int node);

  int free() const { return free_; }
  int gpus_working() const { return working_; }
  int nodes() const { return static_cast<int>(nodes_.size()); }
  int gpus_per_node() const { return gpus_per_node_; }
  int FreeOf(int node) const;
  /// More nodes than the gang needs at least.
  bool IsSpread(const Allocation& allocation) const;

 private:
  struct Node {
    int used = 0;
    bool works = true;
    int place = 0;  // in its list
  };
  void Move(int node, int before);
  void TakeFrom(int node, int gpus, Allocation& allocation);

  const int gpus_per_node_;
  int free_, working_;
  std::vector<Node> nodes_;
  std::vector<std::vector<int>> by_free_;  // node numbers by their free GPUs, unordered inside
};

}  // namespace tide::sim

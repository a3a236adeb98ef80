// Nodes are filed by how many GPUs they have free, so a choice looks at sizes, not at nodes.
#include "sim/placement.h"

#include <algorithm>

namespace tide::sim {

Nodes::Nodes(int nodes, int gpus_per_node)
    : gpus_per_node_(gpus_per_node),
      free_(nodes * gpus_per_node),
      working_(free_),
      nodes_(nodes),
      by_free_(gpus_per_node + 1) {
  for (int node = 0; node < nodes; ++node) {
    nodes_[node].place = node;
    by_free_[gpus_per_node].push_back(node);
  }
}

int Nodes::FreeOf(int node) const {
  return nodes_[node].works ? gpus_per_node_ - nodes_[node].used : 0;
}

// Files `node`, which had `before` free GPUs, under what it has now.
void Nodes::Move(int node, int before) {
  const int now = FreeOf(node);
  if (now == before) return;
  std::vector<int>& from = by_free_[before];
  const int place = nodes_[node].place;
  from[place] = from.back();
  nodes_[from[place]].place = place;
  from.pop_back();
  nodes_[node].place = static_cast<int>(by_free_[now].size());
  by_free_[now].push_back(node);
}

void Nodes::TakeFrom(int node, int gpus, Allocation& allocation) {
  const int before = FreeOf(node);
  nodes_[node].used += gpus;
  free_ -= gpus;
  Move(node, before);
  allocation.push_back({.node = node, .gpus = gpus});
}

Allocation Nodes::Take(int gpus) {
  Allocation allocation;
  if (nodes_.size() == 1) {
    TakeFrom(0, gpus, allocation);
    return allocation;
  }
  // Whole nodes first: a gang larger than a node, and the rest of it, are consolidated as well as
  // they can be.
  while (gpus >= gpus_per_node_ && !by_free_[gpus_per_node_].empty()) {
    TakeFrom(by_free_[gpus_per_node_].back(), gpus_per_node_, allocation);
    gpus -= gpus_per_node_;
  }
  for (int free = gpus; gpus > 0 && free <= gpus_per_node_; ++free) {
    if (by_free_[free].empty()) continue;
    TakeFrom(by_free_[free].back(), gpus, allocation);
    gpus = 0;
  }
  for (int free = gpus_per_node_; gpus > 0 && free > 0;) {
    if (by_free_[free].empty()) {
      --free;
      continue;
    }
    const int share = std::min(free, gpus);
    TakeFrom(by_free_[free].back(), share, allocation);
    gpus -= share;
  }
  return allocation;
}

void Nodes::Give(const Allocation& allocation) {
  for (const NodeShare& share : allocation) {
    const int before = FreeOf(share.node);
    nodes_[share.node].used -= share.gpus;
    free_ += FreeOf(share.node) - before;
    Move(share.node, before);
  }
}

void Nodes::Fail(int node) {
  if (!nodes_[node].works) return;
  const int before = FreeOf(node);
  nodes_[node].works = false;
  free_ -= before;
  working_ -= gpus_per_node_;
  Move(node, before);
}

void Nodes::Repair(int node) {
  if (nodes_[node].works) return;
  nodes_[node].works = true;
  free_ += FreeOf(node);
  working_ += gpus_per_node_;
  Move(node, 0);
}

bool Nodes::IsSpread(const Allocation& allocation) const {
  int gpus = 0;
  for (const NodeShare& share : allocation) gpus += share.gpus;
  const int least = (gpus + gpus_per_node_ - 1) / gpus_per_node_;
  return static_cast<int>(allocation.size()) > least;
}

}  // namespace tide::sim

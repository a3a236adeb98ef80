// The canonical binary tree over logical workers: its shape depends on their number alone.
#pragma once

#include <compare>
#include <vector>

namespace tide::elastic {

/// Logical workers [begin, end): a node of the tree, or what one process carries.
struct Range {
  int begin = 0;
  int end = 0;
  int size() const { return end - begin; }
  auto operator<=>(const Range&) const = default;
};

/// Where a node of at least two workers splits: its left child has the largest power of two that is
/// smaller than the node. So every left subtree is full, as a binary counter makes them.
int SplitPoint(Range node);

/// Whether `range` is a node of the tree over `workers` logical workers.
bool IsNode(int workers, Range range);

/// The fewest nodes that together are `range`, in order. At most 2 log2(workers).
std::vector<Range> Cover(int workers, Range range);

}  // namespace tide::elastic

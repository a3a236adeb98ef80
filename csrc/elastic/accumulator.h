// A binary counter over the canonical tree: which partial sums a process holds after each worker.
#pragma once

#include <vector>

#include "elastic/tree.h"

namespace tide::elastic {

/// Keeps the stack of nodes that are summed up so far; holds no numbers. Workers are pushed in
/// order, without gaps.
class Accumulator {
 public:
  explicit Accumulator(int workers) : workers_(workers) {}

  /// Takes the next worker and returns how many additions follow: 0 means that its gradient becomes
  /// the new top of the stack. Otherwise it is added to the top (which is the left operand), and
  /// then, `additions - 1` times, the top is added to the one below it.
  int Push(int worker);

  void Clear() { nodes_.clear(); }
  /// Partial sums that are alive, in order; index i lives in buffer i.
  const std::vector<Range>& nodes() const { return nodes_; }

 private:
  const int workers_;
  std::vector<Range> nodes_;
};

}  // namespace tide::elastic

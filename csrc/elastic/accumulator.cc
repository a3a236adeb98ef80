// Merges siblings as soon as both are there.
#include "elastic/accumulator.h"

namespace tide::elastic {

int Accumulator::Push(int worker) {
  Range top{worker, worker + 1};
  int additions = 0;
  while (!nodes_.empty()) {
    const Range merged{nodes_.back().begin, top.end};
    const bool siblings = nodes_.back().end == top.begin && IsNode(workers_, merged) &&
                          SplitPoint(merged) == top.begin;
    if (!siblings) break;
    nodes_.pop_back();
    top = merged;
    ++additions;
  }
  nodes_.push_back(top);
  return additions;
}

}  // namespace tide::elastic

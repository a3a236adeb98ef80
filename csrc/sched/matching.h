// Maximum weight matching in a general graph: who goes with whom so that the sum of weights is
// largest.
#pragma once

#include <utility>
#include <vector>

namespace tide::sched {

struct WeightedEdge {
  int a = 0, b = 0;
  double weight = 0;  // edges of no weight or less are left out
};

/// Pairs (a < b) of a matching with the largest sum of weights, ascending. Weights are rounded to
/// 1e-9 of the largest, so that the blossoms are shrunk in whole numbers and the answer is the same
/// everywhere.
std::vector<std::pair<int, int>> MaximumMatching(int nodes, const std::vector<WeightedEdge>& edges);

}  // namespace tide::sched

// LEMON's blossom algorithm, O(n m log n), on 64-bit whole weights.
#include "sched/matching.h"

#include <lemon/matching.h>
#include <lemon/smart_graph.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace tide::sched {

std::vector<std::pair<int, int>> MaximumMatching(int nodes,
                                                 const std::vector<WeightedEdge>& edges) {
  constexpr double kSteps = 1e9;
  double largest = 0;
  for (const WeightedEdge& edge : edges) largest = std::max(largest, edge.weight);
  std::vector<std::pair<int, int>> pairs;
  if (largest <= 0) return pairs;
  lemon::SmartGraph graph;
  for (int i = 0; i < nodes; ++i) graph.addNode();
  lemon::SmartGraph::EdgeMap<int64_t> weights(graph);
  for (const WeightedEdge& edge : edges) {
    const auto weight = static_cast<int64_t>(std::llround(edge.weight / largest * kSteps));
    if (weight <= 0) continue;
    const auto added =
        graph.addEdge(lemon::SmartGraph::nodeFromId(edge.a), lemon::SmartGraph::nodeFromId(edge.b));
    weights[added] = weight;
  }
  lemon::MaxWeightedMatching<lemon::SmartGraph, lemon::SmartGraph::EdgeMap<int64_t>> matching(
      graph, weights);
  matching.run();
  for (int i = 0; i < nodes; ++i) {
    const auto mate = matching.mate(lemon::SmartGraph::nodeFromId(i));
    if (mate == lemon::INVALID) continue;
    const int other = lemon::SmartGraph::id(mate);
    if (i < other) pairs.emplace_back(i, other);
  }
  return pairs;
}

}  // namespace tide::sched

// The multiple-choice knapsack: at most one choice of each item, weights within a limit, most
// value.
#pragma once

#include <vector>

namespace tide::sched {

struct KnapsackChoice {
  int weight = 0;  // from 0
  double value = 0;
};
using KnapsackItem = std::vector<KnapsackChoice>;

/// Which choice of each item is taken; -1: none. Exact, O(limit * choices). Among equal values the
/// lighter choice and the earlier item win.
std::vector<int> SolveKnapsack(const std::vector<KnapsackItem>& items, int limit);

}  // namespace tide::sched

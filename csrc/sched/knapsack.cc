// Dynamic programming over the weight, one row an item, with the choices kept to walk back.
#include "sched/knapsack.h"

#include <algorithm>
#include <cstdint>

namespace tide::sched {

std::vector<int> SolveKnapsack(const std::vector<KnapsackItem>& items, int limit) {
  std::vector<int> chosen(items.size(), -1);
  if (limit <= 0 && items.empty()) return chosen;
  const auto width = static_cast<size_t>(std::max(0, limit)) + 1;
  std::vector<double> best(width, 0), next(width);
  std::vector<std::vector<int16_t>> taken(items.size(), std::vector<int16_t>(width, -1));
  for (size_t i = 0; i < items.size(); ++i) {
    next = best;
    for (size_t choice = 0; choice < items[i].size(); ++choice) {
      const auto [weight, value] = items[i][choice];
      for (auto total = static_cast<size_t>(weight); total < width; ++total) {
        const double with = best[total - weight] + value;
        if (with <= next[total]) continue;
        next[total] = with;
        taken[i][total] = static_cast<int16_t>(choice);
      }
    }
    best.swap(next);
  }
  size_t left = width - 1;
  for (size_t i = items.size(); i-- > 0;) {
    chosen[i] = taken[i][left];
    if (chosen[i] >= 0) left -= items[i][chosen[i]].weight;
  }
  return chosen;
}

}  // namespace tide::sched

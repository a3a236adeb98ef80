// The knapsack against all choices tried.
#include "sched/knapsack.h"

#include "base/random.h"
#include "gtest/gtest.h"

namespace tide::sched {
namespace {

double Best(const std::vector<KnapsackItem>& items, size_t from, int left) {
  if (from == items.size()) return 0;
  double best = Best(items, from + 1, left);
  for (const KnapsackChoice& choice : items[from]) {
    if (choice.weight > left) continue;
    best = std::max(best, choice.value + Best(items, from + 1, left - choice.weight));
  }
  return best;
}

TEST(KnapsackTest, IsAsGoodAsAllChoicesTried) {
  for (uint64_t seed = 1; seed <= 1000; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    std::vector<KnapsackItem> items(random.Below(6));
    for (KnapsackItem& item : items) {
      item.resize(1 + random.Below(4));
      for (KnapsackChoice& choice : item) {
        choice = {.weight = static_cast<int>(random.Below(8)), .value = random.Unit() - 0.1};
      }
    }
    const int limit = static_cast<int>(random.Below(20));
    const std::vector<int> chosen = SolveKnapsack(items, limit);
    double value = 0;
    int weight = 0;
    for (size_t i = 0; i < items.size(); ++i) {
      if (chosen[i] < 0) continue;
      value += items[i][chosen[i]].value;
      weight += items[i][chosen[i]].weight;
    }
    ASSERT_LE(weight, limit);
    ASSERT_NEAR(value, Best(items, 0, limit), 1e-9);
  }
}

TEST(KnapsackTest, NothingFitsIntoNothing) {
  EXPECT_EQ(SolveKnapsack({{{.weight = 1, .value = 1}}}, 0), std::vector<int>{-1});
  EXPECT_TRUE(SolveKnapsack({}, 0).empty());
}

}  // namespace
}  // namespace tide::sched

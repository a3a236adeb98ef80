// The knapsack over types of GPU against all choices tried, by the table and by branching.
#include "sched/typed_knapsack.h"

#include "base/random.h"
#include "gtest/gtest.h"
#include "sched/linear_program.h"

namespace tide::sched {
namespace {

double Best(const std::vector<TypedItem>& items, size_t from, std::vector<int>& left) {
  if (from == items.size()) return 0;
  double best = Best(items, from + 1, left);
  for (const TypedChoice& choice : items[from]) {
    if (choice.weight > left[choice.type]) continue;
    left[choice.type] -= choice.weight;
    best = std::max(best, choice.value + Best(items, from + 1, left));
    left[choice.type] += choice.weight;
  }
  return best;
}

// Checks that the answer fits and returns its value.
double ValueOf(const std::vector<TypedItem>& items, const std::vector<int>& gpus,
               const TypedLimits& limits) {
  const std::vector<int> chosen = SolveTyped(items, gpus, limits);
  std::vector<int> left = gpus;
  double value = 0;
  EXPECT_EQ(chosen.size(), items.size());
  for (size_t i = 0; i < chosen.size(); ++i) {
    if (chosen[i] < 0) continue;
    left[items[i][chosen[i]].type] -= items[i][chosen[i]].weight;
    value += items[i][chosen[i]].value;
  }
  for (const int rest : left) EXPECT_GE(rest, 0);
  return value;
}

std::vector<TypedItem> RandomItems(Random& random, size_t types, size_t most) {
  std::vector<TypedItem> items(random.Below(most + 1));
  for (TypedItem& item : items) {
    item.resize(1 + random.Below(5));
    for (TypedChoice& choice : item) {
      choice = {.type = static_cast<int>(random.Below(types)),
                .weight = 1 + static_cast<int>(random.Below(6)),
                .value = 0.01 + random.Unit()};
    }
  }
  return items;
}

TEST(TypedKnapsackTest, IsAsGoodAsAllChoicesTried) {
  const bool solver = CheckLinearSolver().ok();
  for (uint64_t seed = 1; seed <= 500; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const size_t types = 1 + random.Below(3);
    std::vector<int> gpus;
    for (size_t type = 0; type < types; ++type) gpus.push_back(static_cast<int>(random.Below(12)));
    const std::vector<TypedItem> items = RandomItems(random, types, 6);
    std::vector<int> left = gpus;
    const double best = Best(items, 0, left);
    ASSERT_NEAR(ValueOf(items, gpus, {}), best, 1e-9);
    if (!solver) continue;
    ASSERT_NEAR(ValueOf(items, gpus, {.cells_max = -1, .nodes_max = 100'000, .gap = 0}), best, 1e-9)
        << "by branching";
  }
}

TEST(TypedKnapsackTest, FortyLinearProgramsComeWithinAFortiethOfTheTableOnManyJobs) {
  if (!CheckLinearSolver().ok()) GTEST_SKIP() << CheckLinearSolver();
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const std::vector<TypedItem> items = RandomItems(random, 3, 150);
    const std::vector<int> gpus = {16, 20, 30};
    const double best = ValueOf(items, gpus, {.cells_max = 1 << 24});
    EXPECT_GE(ValueOf(items, gpus, {.cells_max = -1}) * 1.025, best);
  }
}

TEST(TypedKnapsackTest, WithoutRoomForOneLinearProgramTheAnswerStillFits) {
  Random random(3);
  const std::vector<TypedItem> items = RandomItems(random, 2, 60);
  EXPECT_GT(ValueOf(items, {7, 9}, {.cells_max = -1, .nodes_max = 0}), 0);
}

}  // namespace
}  // namespace tide::sched

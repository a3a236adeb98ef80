// Plans of slots: the smallest quota, from the deadline backwards, never above what is free.
#include "sched/slot_plan.h"

#include "base/random.h"
#include "gtest/gtest.h"

namespace tide::sched {
namespace {

TEST(SlotPlanTest, TakesTheSmallestQuotaAndTheLatestSlots) {
  std::vector<int> free{4, 4, 4, 4};
  const auto plan =
      FillBackwards({.sizes = {1, 2, 4}, .speeds = {1, 2, 4}, .work = 3, .slots = 4}, free);
  ASSERT_TRUE(plan.has_value());
  EXPECT_EQ(*plan, (SlotPlan{0, 1, 1, 1}));
  EXPECT_EQ(free, (std::vector<int>{4, 3, 3, 3}));
}

TEST(SlotPlanTest, LeavesWhatIsFreeAsItWasWhenNoQuotaIsEnough) {
  std::vector<int> free{1, 1};
  EXPECT_FALSE(FillBackwards({.sizes = {1, 2}, .speeds = {1, 2}, .work = 3, .slots = 2}, free));
  EXPECT_EQ(free, (std::vector<int>{1, 1}));
}

TEST(SlotPlanTest, RandomPlansHoldTheirDeadlinesWithinTheCluster) {
  int found = 0;
  for (uint64_t seed = 1; seed <= 500; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    std::vector<SlotDemand> demands(1 + random.Below(6));
    int slots = 0;
    for (SlotDemand& demand : demands) {
      slots += static_cast<int>(random.Below(5));
      demand = {.sizes = {1, 2, 4},
                .speeds = {1, 1.8, 3},
                .work = 10.0 * static_cast<double>(1 + random.Below(12)),
                .slots = slots};
    }
    const auto plans = PlanSlots(demands, 4, 10);
    if (!plans) continue;
    ++found;
    for (size_t i = 0; i < demands.size(); ++i) {
      double work = 0;
      for (const int gpus : (*plans)[i]) {
        work += 10 * (gpus == 0 ? 0 : gpus == 1 ? 1 : gpus == 2 ? 1.8 : 3);
      }
      ASSERT_GE(work, demands[i].work);
    }
    for (int slot = 0; slot < slots; ++slot) {
      int used = 0;
      for (const SlotPlan& plan : *plans) {
        used += slot < static_cast<int>(plan.size()) ? plan[slot] : 0;
      }
      ASSERT_LE(used, 4);
    }
  }
  EXPECT_GT(found, 50);
}

}  // namespace
}  // namespace tide::sched

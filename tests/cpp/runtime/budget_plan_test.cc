// The laws of what moves at a boundary, on random sizes.
#include "runtime/budget_plan.h"

#include <algorithm>

#include "base/random.h"
#include "gtest/gtest.h"

namespace tide::runtime {
namespace {

BudgetState RandomState(uint64_t seed) {
  Random random(seed);
  const auto pages = [&](uint64_t bound) {
    return kPage * static_cast<int64_t>(random.Below(bound));
  };
  BudgetState state;
  state.limit = random.Below(3) == 0 ? Bytes(0) : kPage + pages(300);
  state.outside = pages(40) + KiB(static_cast<int64_t>(random.Below(2000)));
  state.lane_peak = pages(30);
  state.alive = pages(150) + KiB(4) * static_cast<int64_t>(random.Below(512));
  state.cached = pages(50);
  state.demoted = random.Below(2) == 0 ? Bytes(0) : pages(150);
  state.private_scratch = pages(30);
  state.largest_operator = random.Below(3) == 0 ? Bytes(0) : pages(40);
  state.window = pages(20);
  state.device_free = pages(200) - pages(50);
  state.asked = random.Below(2) == 0 ? Bytes(0) : pages(100);
  state.guaranteed = random.Below(2) == 0 ? Bytes(0) : pages(200);
  return state;
}

Bytes HeldAfter(const BudgetState& state, const BudgetPlan& plan) {
  const Bytes alive = std::max(state.alive - plan.demote.bytes(), Bytes(0)) + plan.promote.bytes();
  return alive + (plan.trim ? std::min(state.cached, plan.trim_keep.bytes()) : state.cached);
}

template <typename Law>
void ForEachState(Law law) {
  for (uint64_t seed = 1; seed <= 20'000; ++seed) {
    SCOPED_TRACE(seed);
    const BudgetState state = RandomState(seed);
    law(state, PlanBudget(state));
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(BudgetPlanTest, NothingIsDemotedWhenEverythingFits) {
  ForEachState([](const BudgetState& state, const BudgetPlan& plan) {
    const Bytes needs =
        state.outside + state.lane_peak + state.alive + state.demoted + state.private_scratch;
    if (state.asked > Bytes(0) || (state.limit > Bytes(0) && needs > state.limit)) return;
    EXPECT_EQ(plan.demote, PageCount(0));
  });
}

TEST(BudgetPlanTest, WhatIsHeldAfterwardsIsWithinTheLimit) {
  ForEachState([](const BudgetState& state, const BudgetPlan& plan) {
    if (state.limit == Bytes(0)) return;
    const Bytes room = std::max(state.limit - state.outside - state.lane_peak, Bytes(0));
    EXPECT_LE(HeldAfter(state, plan), room);
  });
}

TEST(BudgetPlanTest, WhatOthersGetIsReallyGivenAndNeverOfTheGuaranteedShare) {
  ForEachState([](const BudgetState& state, const BudgetPlan& plan) {
    EXPECT_LE(plan.given_to_others, state.asked);
    EXPECT_GE(plan.given_to_others, Bytes(0));
    if (plan.given_to_others == Bytes(0)) return;
    const Bytes held = state.alive + state.cached;
    EXPECT_GE(held - plan.given_to_others + state.outside + state.lane_peak, state.guaranteed);
    EXPECT_LE(HeldAfter(state, plan), held - plan.given_to_others);
  });
}

TEST(BudgetPlanTest, PagesComeBackOnlyIntoRoomAndNeverWhileOthersAsk) {
  ForEachState([](const BudgetState& state, const BudgetPlan& plan) {
    if (plan.promote == PageCount(0)) return;
    EXPECT_EQ(plan.demote, PageCount(0));
    EXPECT_EQ(state.asked, Bytes(0));
    EXPECT_LE(plan.promote.bytes(), state.demoted);
    EXPECT_LE(plan.promote.bytes() + state.private_scratch, state.device_free);
  });
}

TEST(BudgetPlanTest, APlanThatWasCarriedOutIsFollowedByNone) {
  ForEachState([](BudgetState state, const BudgetPlan& plan) {
    if (state.asked > Bytes(0)) return;
    const Bytes alive =
        std::max(state.alive - plan.demote.bytes(), Bytes(0)) + plan.promote.bytes();
    state.cached = plan.trim ? std::min(state.cached, plan.trim_keep.bytes()) : state.cached;
    state.demoted += plan.demote.bytes() - plan.promote.bytes();
    state.device_free += state.alive - alive;
    const bool freed = alive < state.alive;
    state.alive = alive;
    const BudgetPlan next = PlanBudget(state);
    EXPECT_EQ(next.demote, PageCount(0));
    if (!freed) {
      EXPECT_EQ(next.promote, PageCount(0));
    }
  });
}

TEST(BudgetPlanTest, UnderTheSmallestLimitNotEvenDemotingEverythingFits) {
  ForEachState([](BudgetState state, const BudgetPlan&) {
    state.asked = Bytes(0);
    state.pinned = std::min(state.alive, state.guaranteed);
    const SmallestLimit smallest = SmallestPossibleLimit(state);
    EXPECT_EQ(smallest.total,
              smallest.outside + smallest.pinned + smallest.scratch + smallest.window);
    state.limit = smallest.total;
    state.window = smallest.window;
    const BudgetPlan plan = PlanBudget(state);
    EXPECT_LE(plan.demote, PagesFor(state.alive));
    if (state.largest_operator >= state.private_scratch) {
      EXPECT_LE(plan.demote, PagesFor(state.alive - state.pinned)) << "never more than can move";
    }
  });
}

TEST(BudgetPlanTest, TheWindowHoldsWhatIsUsedAtOnceAsFarAsThereIsRoom) {
  ForEachState([](BudgetState state, const BudgetPlan&) {
    const Bytes depth(state.guaranteed.value() / 2);
    const Bytes window = PlanWindow(state, depth);
    EXPECT_GE(window, MiB(16)) << "without it nothing can be read ahead";
    if (state.limit == Bytes(0)) {
      EXPECT_LE(window, MiB(96));
      return;
    }
    const Bytes room = state.limit - state.outside - state.lane_peak;
    EXPECT_LE(window, std::max(room, MiB(16)));
    const bool wide =
        state.device_free >= MiB(96) && room.value() / 2 >= depth.value() + (16 << 20);
    if (wide) {
      EXPECT_GE(window, depth + MiB(16));
      if (room < state.private_scratch) {
        EXPECT_GE(window, std::min(state.largest_operator + MiB(16), Bytes(room.value() / 2)));
      }
    }
  });
}

}  // namespace
}  // namespace tide::runtime

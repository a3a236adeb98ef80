// The tree's shape, the binary counter over it, and the division of workers.
#include "elastic/tree.h"

#include <algorithm>

#include "elastic/accumulator.h"
#include "elastic/plan.h"
#include "gtest/gtest.h"

namespace tide::elastic {
namespace {

TEST(TreeTest, ANodeSplitsAfterTheLargestPowerOfTwoBelowItsSize) {
  EXPECT_EQ(SplitPoint({0, 2}), 1);
  EXPECT_EQ(SplitPoint({0, 6}), 4);
  EXPECT_EQ(SplitPoint({0, 8}), 4);
  EXPECT_EQ(SplitPoint({4, 7}), 6);
}

TEST(TreeTest, ACoverIsMadeOfNodesInOrderWithoutGaps) {
  for (int workers = 1; workers <= 24; ++workers) {
    for (int begin = 0; begin < workers; ++begin) {
      for (int end = begin + 1; end <= workers; ++end) {
        int next = begin;
        for (const Range node : Cover(workers, {begin, end})) {
          EXPECT_TRUE(IsNode(workers, node));
          EXPECT_EQ(node.begin, next);
          next = node.end;
        }
        EXPECT_EQ(next, end);
      }
    }
  }
}

TEST(AccumulatorTest, WhatIsLeftOnTheStackIsTheCover) {
  for (int workers = 1; workers <= 24; ++workers) {
    for (int begin = 0; begin < workers; ++begin) {
      for (int end = begin + 1; end <= workers; ++end) {
        Accumulator accumulator(workers);
        for (int worker = begin; worker < end; ++worker) accumulator.Push(worker);
        EXPECT_EQ(accumulator.nodes(), Cover(workers, {begin, end}));
      }
    }
  }
}

TEST(AccumulatorTest, OneProcessKeepsLogarithmicallyManySums) {
  EXPECT_EQ(LivePartials(8, {0, 8}), 3);  // the eighth is added at once
  EXPECT_EQ(LivePartials(16, {0, 16}), 4);
  EXPECT_LE(LivePartialsMax(64), 8);
}

TEST(PlanTest, LoadsAreAsEvenAsTheyCanBeAndAllWorkersAreCarriedOnce) {
  for (int workers = 1; workers <= 32; ++workers) {
    for (int processes = 1; processes <= std::min(workers, kProcessesMax); ++processes) {
      const auto plan = MakePlan(workers, processes);
      ASSERT_TRUE(plan.ok()) << plan.status();
      int next = 0;
      for (const Range range : plan->carried) {
        EXPECT_EQ(range.begin, next);
        EXPECT_GE(range.size(), 1);
        EXPECT_LE(range.size(), (workers + processes - 1) / processes);
        next = range.end;
      }
      EXPECT_EQ(next, workers);
      EXPECT_EQ(plan->additions.size(), plan->sources.size() - 1);
    }
  }
}

TEST(PlanTest, DivisionsAlongTheTreeMoveNoMoreThanPlainDataParallel) {
  for (const auto& [workers, processes] : {std::pair{8, 2}, {8, 4}, {16, 8}, {4, 4}}) {
    EXPECT_EQ(MakePlan(workers, processes)->byte_factor, 1.0);
  }
  EXPECT_EQ(MakePlan(6, 2)->byte_factor, 1.5);
  EXPECT_FALSE(MakePlan(8, 2)->sharded);
  EXPECT_TRUE(MakePlan(8, 4)->sharded);
}

/// Fewest nodes over all divisions into `processes` ranges of at most `load` workers.
size_t FewestNodes(int workers, int begin, int processes, int load) {
  if (processes == 0) return begin == workers ? 0 : 1000;
  size_t fewest = 1000;
  for (int end = begin + 1; end <= std::min(workers, begin + load); ++end) {
    fewest = std::min(fewest, Cover(workers, {begin, end}).size() +
                                  FewestNodes(workers, end, processes - 1, load));
  }
  return fewest;
}

TEST(PlanTest, NoOtherDivisionOfThatLoadHasFewerPartialSums) {
  for (int workers = 1; workers <= 10; ++workers) {
    for (int processes = 1; processes <= workers; ++processes) {
      const int load = (workers + processes - 1) / processes;
      EXPECT_EQ(MakePlan(workers, processes)->sources.size(),
                FewestNodes(workers, 0, processes, load));
    }
  }
}

TEST(PlanTest, WrongNumbersAreRefusedWithTheBounds) {
  EXPECT_EQ(MakePlan(4, 5).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakePlan(4, 0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakePlan(0, 1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(PlanFor(4, {{0, 1}, {2, 4}}).ok());
  EXPECT_FALSE(PlanFor(4, {{0, 2}}).ok());
}

}  // namespace
}  // namespace tide::elastic

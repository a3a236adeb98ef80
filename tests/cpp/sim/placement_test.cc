// Gangs on nodes: consolidated where they can be, spread only when they must be, nothing lost.
#include "sim/placement.h"

#include <map>
#include <vector>

#include "base/random.h"
#include "gtest/gtest.h"

namespace tide::sim {
namespace {

TEST(NodesTest, AGangGoesToTheFullestNodeThatTakesItWhole) {
  Nodes nodes(3, 8);
  const Allocation five = nodes.Take(5);
  const Allocation six = nodes.Take(6);
  const Allocation two = nodes.Take(2);
  ASSERT_EQ(two.size(), 1u);
  EXPECT_EQ(two[0].node, six[0].node);
  const Allocation three = nodes.Take(3);
  EXPECT_EQ(three[0].node, five[0].node);
  EXPECT_EQ(nodes.free(), 8);
}

TEST(NodesTest, ALargeGangTakesWholeNodesAndItsRestFromTheFullestThatHasIt) {
  Nodes nodes(4, 8);
  const Allocation small = nodes.Take(5);
  const Allocation large = nodes.Take(19);
  EXPECT_EQ(large.size(), 3u);
  EXPECT_EQ(large[2].node, small[0].node);
  EXPECT_EQ(large[2].gpus, 3);
  EXPECT_FALSE(nodes.IsSpread(large));
}

TEST(NodesTest, AGangIsSpreadOnlyWhenNoNodeTakesItWhole) {
  Nodes nodes(2, 8);
  const Allocation first = nodes.Take(5);
  const Allocation second = nodes.Take(5);
  const Allocation third = nodes.Take(4);
  EXPECT_EQ(third.size(), 2u);
  EXPECT_TRUE(nodes.IsSpread(third));
  nodes.Give(first);
  EXPECT_FALSE(nodes.IsSpread(nodes.Take(4)));
}

TEST(NodesTest, AFailedNodeGivesNothingUntilItIsRepaired) {
  Nodes nodes(2, 4);
  const Allocation held = nodes.Take(3);
  nodes.Fail(held[0].node);
  EXPECT_EQ(nodes.free(), 4);
  EXPECT_EQ(nodes.gpus_working(), 4);
  nodes.Give(held);
  EXPECT_EQ(nodes.free(), 4);
  const Allocation other = nodes.Take(4);
  EXPECT_NE(other[0].node, held[0].node);
  nodes.Repair(held[0].node);
  EXPECT_EQ(nodes.free(), 4);
  EXPECT_EQ(nodes.gpus_working(), 8);
}

TEST(NodesTest, WhatIsTakenAndGivenBackInAnyOrderAddsUp) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const int count = 1 + static_cast<int>(random.Below(6)),
              size = 1 + static_cast<int>(random.Below(8));
    Nodes nodes(count, size);
    std::vector<Allocation> held;
    std::map<int, int> used;
    for (int step = 0; step < 100; ++step) {
      if (random.Below(2) == 0 && nodes.free() > 0) {
        const int gpus = 1 + static_cast<int>(random.Below(nodes.free()));
        held.push_back(nodes.Take(gpus));
        int got = 0;
        for (const NodeShare& share : held.back()) {
          ASSERT_GT(share.gpus, 0);
          ASSERT_LE(used[share.node] += share.gpus, size);
          got += share.gpus;
        }
        ASSERT_EQ(got, gpus);
      } else if (!held.empty()) {
        std::swap(held[random.Below(held.size())], held.back());
        for (const NodeShare& share : held.back()) used[share.node] -= share.gpus;
        nodes.Give(held.back());
        held.pop_back();
      }
      int in_use = 0;
      for (const auto& [node, gpus] : used) in_use += gpus;
      ASSERT_EQ(nodes.free(), count * size - in_use);
    }
  }
}

}  // namespace
}  // namespace tide::sim

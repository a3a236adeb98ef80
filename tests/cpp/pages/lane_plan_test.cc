// Which pages enter the lane and which leave it.
#include "pages/lane_plan.h"

#include <map>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tide::pages {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int64_t kMiB = 1 << 20;

DevicePage PageAt(cuda::Handle token, int64_t at_mib, DeviceTier tier) {
  DevicePage page;
  page.token = token;
  page.address = static_cast<cuda::DevicePointer>(at_mib * kMiB);
  page.size = MiB(2);
  page.tier = tier;
  return page;
}
AddressRange Range(int64_t at_mib, int64_t mib) {
  return {static_cast<cuda::DevicePointer>(at_mib * kMiB), MiB(mib)};
}

TEST(LanePlanTest, PagesOfThePoolWithoutALiveBlockEnterAndThoseWithOneLeave) {
  const std::vector<DevicePage> pages = {
      PageAt(1, 100, DeviceTier::kDevice), PageAt(2, 102, DeviceTier::kDevice),
      PageAt(3, 104, DeviceTier::kLane), PageAt(4, 106, DeviceTier::kLane),
      PageAt(5, 200, DeviceTier::kDevice)};  // of another pool
  std::unordered_map<cuda::Handle, int> staying;
  const LanePlan plan =
      PlanLane(pages, {{Range(100, 8)}, {Range(103, 2)}}, staying);  // 2's end and 3's begin
  EXPECT_THAT(plan.to_lane, ElementsAre(1));
  EXPECT_THAT(plan.from_lane, ElementsAre(3));
}

TEST(LanePlanTest, ABlockEndsWhereItEnds) {
  const std::vector<DevicePage> pages = {PageAt(1, 100, DeviceTier::kLane),
                                         PageAt(2, 102, DeviceTier::kLane),
                                         PageAt(3, 104, DeviceTier::kLane)};
  std::unordered_map<cuda::Handle, int> staying;
  EXPECT_THAT(PlanLane(pages, {{Range(100, 6)}, {Range(102, 2)}}, staying).from_lane,
              ElementsAre(2));
}

TEST(LanePlanTest, APageOfTheLaneThatThePoolDoesNotKnowLeaves) {
  const std::vector<DevicePage> pages = {PageAt(1, 100, DeviceTier::kLane),
                                         PageAt(2, 102, DeviceTier::kLane)};
  std::unordered_map<cuda::Handle, int> staying;
  EXPECT_THAT(PlanLane(pages, {{Range(100, 3)}, {}}, staying).from_lane, ElementsAre(2));
  EXPECT_THAT(PlanLane(pages, {}, staying).from_lane, ElementsAre(1, 2));
}

TEST(LanePlanTest, SegmentsThatTouchAreOne) {
  const std::vector<DevicePage> pages = {PageAt(1, 100, DeviceTier::kDevice)};
  std::unordered_map<cuda::Handle, int> staying;
  EXPECT_THAT(PlanLane(pages, {{Range(101, 1), Range(100, 1)}, {}}, staying).to_lane,
              ElementsAre(1));
}

TEST(LanePlanTest, WhatIsAwayUnmappedOrSharedWithOthersIsLeftAlone) {
  std::vector<DevicePage> pages = {
      PageAt(1, 100, DeviceTier::kHostMapped), PageAt(2, 102, DeviceTier::kHostCopy),
      PageAt(3, 104, DeviceTier::kDevice), PageAt(4, 0, DeviceTier::kDevice)};
  pages[2].pinned = true;
  std::unordered_map<cuda::Handle, int> staying;
  const LanePlan plan = PlanLane(pages, {{Range(0, 200)}, {}}, staying);
  EXPECT_THAT(plan.to_lane, IsEmpty());
  EXPECT_THAT(plan.from_lane, IsEmpty());
}

TEST(LanePlanTest, APageThatHadToLeaveStaysUntilItWasFreeForAWhile) {
  const LanePool busy{{Range(100, 2)}, {Range(100, 1)}}, free{{Range(100, 2)}, {}};
  std::unordered_map<cuda::Handle, int> staying;
  EXPECT_THAT(PlanLane({PageAt(1, 100, DeviceTier::kLane)}, busy, staying).from_lane,
              ElementsAre(1));
  const std::vector<DevicePage> now_private = {PageAt(1, 100, DeviceTier::kDevice)};
  for (int i = 1; i < kStayPrivate; ++i) {
    EXPECT_THAT(PlanLane(now_private, free, staying).to_lane, IsEmpty()) << i;
  }
  EXPECT_THAT(PlanLane(now_private, busy, staying).to_lane, IsEmpty());  // begins anew
  for (int i = 1; i < kStayPrivate; ++i) {
    EXPECT_THAT(PlanLane(now_private, free, staying).to_lane, IsEmpty()) << i;
  }
  EXPECT_THAT(PlanLane(now_private, free, staying).to_lane, ElementsAre(1));
  EXPECT_THAT(staying, IsEmpty());
}

TEST(LanePlanTest, PagesThatAreGoneAreForgotten) {
  std::unordered_map<cuda::Handle, int> staying = {{7, 3}};
  PlanLane({}, {}, staying);
  EXPECT_THAT(staying, IsEmpty());
}

/// Against the definition, byte by byte of a small map.
TEST(LanePlanTest, RandomPoolsAgreeWithTheDefinition) {
  const unsigned seed = std::random_device()();
  std::mt19937 random(seed);
  for (int round = 0; round < 300; ++round) {
    std::vector<DevicePage> pages;
    for (int i = 0; i < 12; ++i)
      pages.push_back(
          PageAt(i + 1, 100 + 2 * i, random() % 2 ? DeviceTier::kLane : DeviceTier::kDevice));
    LanePool pool;
    std::map<int64_t, bool> in_pool, alive;
    const auto draw = [&](std::vector<AddressRange>& ranges, std::map<int64_t, bool>& covered) {
      for (unsigned n = random() % 4; n > 0; --n) {
        const auto at = static_cast<int64_t>(98 + random() % 28);
        const auto size = static_cast<int64_t>(random() % 9);
        ranges.push_back(Range(at, size));
        for (int64_t i = at; i < at + size; ++i) covered[i] = true;
      }
    };
    draw(pool.segments, in_pool);
    draw(pool.live, alive);
    std::unordered_map<cuda::Handle, int> staying;
    const LanePlan plan = PlanLane(pages, pool, staying);
    std::vector<cuda::Handle> to, from;
    for (const DevicePage& page : pages) {
      const auto at = static_cast<int64_t>(page.address) / kMiB;
      const bool free = in_pool[at] && in_pool[at + 1] && !alive[at] && !alive[at + 1];
      if (page.tier == DeviceTier::kLane && !free) from.push_back(page.token);
      if (page.tier == DeviceTier::kDevice && free) to.push_back(page.token);
    }
    ASSERT_EQ(plan.to_lane, to) << "seed " << seed << " round " << round;
    ASSERT_EQ(plan.from_lane, from) << "seed " << seed << " round " << round;
  }
}

}  // namespace
}  // namespace tide::pages

// Which device pages leave, decided on made-up pages.
#include "pages/device_plan.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tide::pages {
namespace {

using ::testing::ElementsAre;

constexpr cuda::DevicePointer kBase = 0x7f0000000000;

/// Pages of 2 MiB side by side; tokens 1, 2, ...
std::vector<DevicePage> Pages(int count) {
  std::vector<DevicePage> pages(count);
  for (int i = 0; i < count; ++i) {
    pages[i].token = i + 1;
    pages[i].size = MiB(2);
    pages[i].address = kBase + i * MiB(2).size();
  }
  return pages;
}

TEST(DevicePlanTest, ColdPagesLeaveColdestFirstAndOnlyAsManyAsNeeded) {
  const std::vector<ColdRange> cold = {{kBase + MiB(6).size(), MiB(2)}, {kBase, MiB(4)}};
  EXPECT_THAT(PlanDeviceDemotion(Pages(5), cold, MiB(2), false).tokens, ElementsAre(4));
  EXPECT_THAT(PlanDeviceDemotion(Pages(5), cold, MiB(5), false).tokens, ElementsAre(4, 2, 1));
}

TEST(DevicePlanTest, AWholeColdPageLeavesBeforeOneThatIsPartlyHot) {
  const std::vector<ColdRange> cold = {{kBase + MiB(1).size(), MiB(3)}};
  EXPECT_THAT(PlanDeviceDemotion(Pages(3), cold, MiB(4), false).tokens, ElementsAre(2, 1));
}

TEST(DevicePlanTest, HotPagesLeaveOnlyWhenAnyPageMay) {
  const DevicePlan cold_only = PlanDeviceDemotion(Pages(2), {}, MiB(3), false);
  EXPECT_TRUE(cold_only.tokens.empty());
  EXPECT_EQ(cold_only.short_by, MiB(3));
  const DevicePlan any = PlanDeviceDemotion(Pages(2), {}, MiB(3), true);
  EXPECT_THAT(any.tokens, ElementsAre(2, 1));
  EXPECT_EQ(any.short_by, Bytes(0));
  EXPECT_EQ(any.reason, "4 MiB of 3 MiB found: 0 B with cold tensors, 4 MiB others");
}

TEST(DevicePlanTest, SharedUnmappedAndAbsentPagesStay) {
  std::vector<DevicePage> pages = Pages(4);
  pages[0].pinned = true;
  pages[1].tier = DeviceTier::kHostMapped;
  pages[2].address = 0;
  EXPECT_THAT(PlanDeviceDemotion(pages, {}, MiB(8), true).tokens, ElementsAre(4));
}

}  // namespace
}  // namespace tide::pages

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

/// Tokens in the order of their return, and how many must be there before.
std::pair<std::vector<cuda::Handle>, size_t> Return(int pages, const std::vector<ColdRange>& layers,
                                                    const std::vector<ColdRange>& last) {
  std::vector<DevicePage> planned = Pages(pages);
  const size_t before = PlanReturn(&planned, layers, last);
  std::vector<cuda::Handle> tokens;
  for (const DevicePage& page : planned) tokens.push_back(page.token);
  return {tokens, before};
}

ColdRange Whole(int page, int count = 1) {
  return {kBase + page * MiB(2).size(), Bytes(MiB(2).value() * count)};
}

TEST(PlanReturnTest, PagesOfLayersFollowTheOrderOfTheseAndTheStateComesLast) {
  const auto [tokens, before] = Return(6, {Whole(4), Whole(1)}, {Whole(2, 2)});
  EXPECT_THAT(tokens, ElementsAre(1, 6, 5, 2, 3, 4));
  EXPECT_EQ(before, 2u);
}

TEST(PlanReturnTest, APageOfSeveralLayersIsWantedByTheFirstOfThem) {
  const ColdRange half = {kBase + MiB(2).size(), MiB(1)};
  const ColdRange rest = {kBase + MiB(3).size(), MiB(2)};  // and half of the page after it
  const ColdRange tail = {kBase + MiB(5).size(), MiB(1)};
  EXPECT_THAT(Return(4, {rest, Whole(3), half}, {tail}).first, ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(Return(4, {Whole(3), half, rest}, {tail}).first, ElementsAre(1, 4, 2, 3));
  EXPECT_EQ(Return(4, {rest, Whole(3), half}, {tail}).second, 1u);
}

TEST(PlanReturnTest, APageWithSomethingElseOnItMustBeThereBefore) {
  EXPECT_EQ(Return(2, {{kBase, MiB(1)}}, {}).second, 2u);
  EXPECT_EQ(Return(2, {}, {}).second, 2u);
  EXPECT_EQ(Return(2, {Whole(0, 2)}, {}).second, 0u);
}

}  // namespace
}  // namespace tide::pages

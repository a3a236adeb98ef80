// Pages whose room is held and whose contents come beside running kernels, on the phantom driver.
#include <cstring>
#include <memory>
#include <numeric>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pages/device_pages.h"
#include "pages/device_plan.h"
#include "phantom_pages.h"
#include "spill_folder.h"

namespace tide::pages {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr size_t kSize = size_t{2} << 20;

class DeviceReturnTest : public PhantomPagesTest, public ::testing::WithParamInterface<DeviceTier> {
 protected:
  DeviceReturnTest() {
    spill_ = SpillFile::Open({.dir = folder_.path()}).value();
    pages_.set_spill(spill_.get());
    EXPECT_EQ(driver_.calls().address_reserve(&at_, 2 * kSize, 0, 0, 0), 0);
    const cuda::AllocationProperties properties;
    const cuda::AccessDescriptor access;
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(pages_.Create(&tokens_[i], kSize, &properties, 0), 0);
      EXPECT_EQ(pages_.Map(at_ + i * kSize, kSize, 0, tokens_[i], 0), 0);
    }
    EXPECT_EQ(pages_.SetAccess(at_, 2 * kSize, &access, 1), 0);
    values_.resize(2 * kSize / sizeof(uint32_t));
    std::iota(values_.begin(), values_.end(), 5);
    EXPECT_EQ(driver_.calls().copy_to_device(at_, values_.data(), 2 * kSize), 0);
  }
  ~DeviceReturnTest() override {
    for (int i = 0; i < 2; ++i) {
      if (tokens_[i] == 0) continue;
      EXPECT_EQ(pages_.Unmap(at_ + i * kSize, kSize), 0);
      EXPECT_EQ(pages_.Release(tokens_[i]), 0);
    }
    EXPECT_EQ(driver_.calls().address_free(at_, 2 * kSize), 0);
    EXPECT_TRUE(pages_.Validate().ok()) << pages_.Validate();
    EXPECT_EQ(pages_.counts(0).room, Bytes(0));
    EXPECT_EQ(spill_->used(), Bytes(0));
  }
  std::vector<uint32_t> Read() {
    std::vector<uint32_t> values(values_.size());
    EXPECT_EQ(driver_.calls().copy_to_host(values.data(), at_, 2 * kSize), 0);
    return values;
  }

  tide::testing::SpillFolder folder_;
  std::unique_ptr<SpillFile> spill_;
  DevicePages pages_{driver_, {&accounts_[0], &accounts_[1]}, {}};
  cuda::DevicePointer at_ = 0;
  cuda::Handle tokens_[2] = {};
  std::vector<uint32_t> values_;
};

TEST_P(DeviceReturnTest, RoomThatIsHeldCannotBeTakenAndThePageNeedsNoMore) {
  ASSERT_TRUE(pages_.Demote(tokens_[0], GetParam()).ok());
  EXPECT_EQ(accounts_[0].used(), MiB(2));
  ASSERT_TRUE(pages_.HoldRoom(tokens_[0]).ok());
  ASSERT_TRUE(pages_.HoldRoom(tokens_[0]).ok());  // again: once
  EXPECT_EQ(accounts_[0].used(), MiB(4));
  EXPECT_EQ(pages_.counts(0).room, MiB(2));
  EXPECT_EQ(pages_.counts(0).reserved(), MiB(4));
  EXPECT_TRUE(pages_.Snapshot(0)[0].coming);
  EXPECT_TRUE(pages_.Validate().ok()) << pages_.Validate();
  accounts_[0].set_limit(MiB(4));
  cuda::Handle other = 0;
  const cuda::AllocationProperties properties;
  EXPECT_EQ(pages_.Create(&other, kSize, &properties, 0), cuda::kOutOfMemory);
  ASSERT_TRUE(pages_.PromoteBeside(tokens_[0]).ok());
  EXPECT_EQ(Read(), values_);
  EXPECT_FALSE(pages_.Snapshot(0)[0].coming);
  EXPECT_TRUE(absl::IsFailedPrecondition(pages_.PromoteBeside(tokens_[0])));
}

TEST_P(DeviceReturnTest, TheCopyWaitsForNoKernelOfAnotherStream) {
  ASSERT_TRUE(pages_.Demote(tokens_[0], GetParam()).ok());
  ASSERT_TRUE(pages_.HoldRoom(tokens_[0]).ok());
  phantom_.SetDelay(1);  // happens when somebody waits for it
  ASSERT_EQ(phantom_.Touch(at_ + kSize, kSize, nullptr), 0);
  const uint64_t before = phantom_.CallCount("cuMemcpyHtoD");
  ASSERT_TRUE(pages_.PromoteBeside(tokens_[0]).ok());
  EXPECT_EQ(phantom_.CallCount("cuMemcpyHtoD"), before) << "it waits for the default stream";
  // The copy is done all the same: a kernel of any stream may use the page.
  EXPECT_EQ(Read(), values_);
  phantom_.SetDelay(0);
}

TEST_P(DeviceReturnTest, APageThatIsFreedOnItsWayGivesItsRoomBack) {
  ASSERT_TRUE(pages_.Demote(tokens_[0], GetParam()).ok());
  ASSERT_TRUE(pages_.HoldRoom(tokens_[0]).ok());
  EXPECT_EQ(pages_.Unmap(at_, kSize), 0);
  EXPECT_EQ(pages_.counts(0).room, Bytes(0));
  EXPECT_EQ(accounts_[0].used(), MiB(2));
  EXPECT_TRUE(absl::IsFailedPrecondition(pages_.PromoteBeside(tokens_[0])));
  EXPECT_EQ(pages_.Release(tokens_[0]), 0);
  EXPECT_TRUE(absl::IsNotFound(pages_.PromoteBeside(std::exchange(tokens_[0], 0))));
}

TEST_P(DeviceReturnTest, RoomThatIsLetGoIsOthersAndThePageStaysAway) {
  ASSERT_TRUE(pages_.Demote(tokens_[0], GetParam()).ok());
  ASSERT_TRUE(pages_.HoldRoom(tokens_[0]).ok());
  pages_.LetRoomGo(tokens_[0]);
  pages_.LetRoomGo(tokens_[1]);  // it is not away
  EXPECT_EQ(accounts_[0].used(), MiB(2));
  ASSERT_TRUE(pages_.HoldRoom(tokens_[0]).ok());
  ASSERT_TRUE(pages_.Promote(tokens_[0]).ok());  // the other way takes the room too
  EXPECT_EQ(Read(), values_);
}

TEST_P(DeviceReturnTest, AReturnThatFailsAnywhereKeepsItsRoomAndMayBeRepeated) {
  for (int position = 0; position < 30; ++position) {
    SCOPED_TRACE(::testing::Message() << "call " << position);
    ASSERT_TRUE(pages_.Demote(tokens_[0], GetParam()).ok());
    ASSERT_TRUE(pages_.HoldRoom(tokens_[0]).ok());
    phantom_.ArmFault("*", position, 1, 999);
    const bool worked = pages_.PromoteBeside(tokens_[0]).ok();
    phantom_.DisarmFaults();
    EXPECT_EQ(pages_.counts(0).room, worked ? Bytes(0) : MiB(2));
    EXPECT_TRUE(pages_.Validate().ok()) << pages_.Validate();
    if (!worked) {
      ASSERT_TRUE(pages_.PromoteBeside(tokens_[0]).ok());
    }
    EXPECT_EQ(Read(), values_);
    if (worked) {
      EXPECT_GE(position, 4);
      return;
    }
  }
  ADD_FAILURE() << "it never works";
}

INSTANTIATE_TEST_SUITE_P(Tiers, DeviceReturnTest,
                         ::testing::Values(DeviceTier::kHostCopy, DeviceTier::kFile),
                         [](const auto& info) {
                           return std::string(info.param == DeviceTier::kFile ? "File" : "Host");
                         });

TEST(PagesWithinTest, APageThatSomethingElseCouldBeOnIsNotNamed) {
  const std::vector<DevicePage> pages = {{.token = 1, .size = Bytes(4096), .address = 8192},
                                         {.token = 2, .size = Bytes(4096), .address = 12288},
                                         {.token = 3, .size = Bytes(4096), .address = 0}};
  EXPECT_THAT(PagesWithin(pages, {{8192, Bytes(4096)}}), ElementsAre(0));
  EXPECT_THAT(PagesWithin(pages, {{8192, Bytes(3584)}}), IsEmpty());  // a block could be there
  EXPECT_THAT(PagesWithin(pages, {{8192, Bytes(3585)}}), ElementsAre(0));
  EXPECT_THAT(PagesWithin(pages, {{12288, Bytes(4096)}, {8192, Bytes(100)}, {8704, Bytes(3584)}}),
              ElementsAre(0, 1));
  EXPECT_THAT(PagesWithin(pages, {{0, Bytes(100000)}}), ElementsAre(0, 1));
  EXPECT_THAT(PagesWithin(pages, {}), IsEmpty());
}

}  // namespace
}  // namespace tide::pages

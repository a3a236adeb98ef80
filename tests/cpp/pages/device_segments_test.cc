// Memory as cudaMalloc gives it, made of pages that can leave, on the phantom driver.
#include "pages/device_segments.h"

#include <numeric>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "phantom_pages.h"

namespace tide::pages {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

class DeviceSegmentsTest : public PhantomPagesTest {
 protected:
  DevicePages pages_{driver_, {&accounts_[0], &accounts_[1]}, {}};
  DeviceSegments segments_{driver_, pages_};
};

TEST_F(DeviceSegmentsTest, ASegmentIsOnePageWhoseContentsLeaveAndReturn) {
  cuda::DevicePointer at = 0;
  ASSERT_EQ(segments_.Allocate(0, 5 * kMiB, &at), cuda::kSuccess);
  EXPECT_EQ(accounts_[0].used(), MiB(6));  // in units of what the driver gives
  std::vector<uint32_t> values(5 * kMiB / sizeof(uint32_t));
  std::iota(values.begin(), values.end(), 3);
  ASSERT_EQ(driver_.calls().copy_to_device(at, values.data(), 5 * kMiB), 0);
  const auto views = pages_.Snapshot(0);
  ASSERT_EQ(views.size(), 1u);
  ASSERT_TRUE(pages_.Demote(views[0].token, DeviceTier::kHostCopy).ok());
  EXPECT_EQ(accounts_[0].used(), Bytes(0));
  ASSERT_TRUE(pages_.Promote(views[0].token).ok());
  std::vector<uint32_t> read(values.size());
  ASSERT_EQ(driver_.calls().copy_to_host(read.data(), at, 5 * kMiB), 0);
  EXPECT_EQ(read, values);
  EXPECT_EQ(segments_.Free(at), cuda::kSuccess);
}

TEST_F(DeviceSegmentsTest, FreeingWaitsForWhatUsesTheMemory) {
  cuda::DevicePointer at = 0;
  ASSERT_EQ(segments_.Allocate(0, 2 * kMiB, &at), cuda::kSuccess);
  phantom_.SetDelay(1);  // happens when somebody waits for it
  ASSERT_EQ(phantom_.Touch(at, 2 * kMiB, nullptr), 0);
  EXPECT_EQ(segments_.Free(at), cuda::kSuccess);
  // A kernel on memory that was unmapped under it would have failed the device.
  EXPECT_EQ(driver_.calls().context_synchronize(), cuda::kSuccess);
}

TEST_F(DeviceSegmentsTest, WhatIsAwayIsFreedAndAFreedAddressIsNotOurs) {
  cuda::DevicePointer at = 0;
  ASSERT_EQ(segments_.Allocate(0, 2 * kMiB, &at), cuda::kSuccess);
  ASSERT_TRUE(pages_.Demote(pages_.Snapshot(0)[0].token, DeviceTier::kHostCopy).ok());
  EXPECT_EQ(segments_.Free(at), cuda::kSuccess);
  EXPECT_EQ(segments_.Free(at), cuda::kNotFound);
  EXPECT_EQ(segments_.Free(0), cuda::kNotFound);
}

TEST_F(DeviceSegmentsTest, OverTheLimitItIsOutOfMemoryAndNothingStays) {
  accounts_[0].set_limit(MiB(4));
  cuda::DevicePointer at = 1;
  EXPECT_EQ(segments_.Allocate(0, 6 * kMiB, &at), cuda::kOutOfMemory);
  EXPECT_EQ(at, 0u);
  EXPECT_EQ(segments_.Allocate(0, SIZE_MAX, &at), cuda::kOutOfMemory);
  EXPECT_EQ(segments_.Allocate(7, kMiB, &at), cuda::kInvalidDevice);
  EXPECT_EQ(segments_.Allocate(0, 0, &at), cuda::kSuccess);
}

TEST_F(DeviceSegmentsTest, ADriverThatFailsAnywhereLosesNothingAndTheCallMayBeRepeated) {
  int failed = 0;
  for (int position = 0; position < 30; ++position) {
    SCOPED_TRACE(::testing::Message() << "call " << position);
    phantom_.ArmFault("*", position, 2, 999);  // the undoing fails as well
    cuda::DevicePointer at = 0;
    const bool allocated = segments_.Allocate(0, 4 * kMiB, &at) == cuda::kSuccess;
    const bool freed = allocated && segments_.Free(at) == cuda::kSuccess;
    phantom_.DisarmFaults();
    failed += freed ? 0 : 1;
    if (allocated && !freed) {
      EXPECT_EQ(segments_.Free(at), cuda::kSuccess);
    }
    // What could not be undone is given back by the next request.
    ASSERT_EQ(segments_.Allocate(0, 2 * kMiB, &at), cuda::kSuccess);
    EXPECT_EQ(segments_.Free(at), cuda::kSuccess);
    EXPECT_EQ(accounts_[0].used(), Bytes(0));
    EXPECT_EQ(pages_.counts(0).reserved(), Bytes(0));
  }
  EXPECT_GE(failed, 8);
}

}  // namespace
}  // namespace tide::pages

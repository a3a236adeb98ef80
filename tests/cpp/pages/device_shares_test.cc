// Streams on shares of a device's multiprocessors, on the phantom driver.
#include "pages/device_shares.h"

#include "gtest/gtest.h"
#include "phantom_pages.h"

namespace tide::pages {
namespace {

TEST(DeviceSharesTest, AShareIsMadeOnceAndHasAtLeastWhatWasAskedFor) {
  DeviceShares shares(PhantomDriver());
  const auto half = shares.Share(0, 50);
  ASSERT_TRUE(half.ok()) << half.status();
  EXPECT_EQ(half->multiprocessors, 72);  // 66 of 132, in eights
  EXPECT_EQ(shares.Share(0, 50)->stream, half->stream);
  EXPECT_NE(shares.Share(0, 25)->stream, half->stream);
  EXPECT_EQ(shares.Share(0, 25)->multiprocessors, 40);
  EXPECT_NE(shares.Share(1, 50)->stream, half->stream);
  EXPECT_TRUE(absl::IsInvalidArgument(shares.Share(0, 100).status()));
}

TEST(DeviceSharesTest, ADriverThatFailsAnywhereLeavesNoContextAndTheNextTryWorks) {
  const phantom::Control phantom(PhantomDriver());
  const uint64_t made = phantom.CallCount("cuGreenCtxCreate");
  const uint64_t destroyed = phantom.CallCount("cuGreenCtxDestroy");
  DeviceShares shares(PhantomDriver());
  int failures = 0;
  for (const char* call :
       {"cuDeviceGetDevResource", "cuDevSmResourceSplitByCount", "cuDevResourceGenerateDesc",
        "cuGreenCtxCreate", "cuStreamCreate", "cuGreenCtxStreamCreate"}) {
    phantom.ArmFault(call, 0, 1, 801);
    const auto share = shares.Share(0, 75);
    phantom.DisarmFaults();
    if (share.ok()) continue;  // not a call of this
    ++failures;
    EXPECT_TRUE(absl::IsUnimplemented(share.status())) << share.status();
  }
  EXPECT_EQ(failures, 4);  // before one worked, whose result is kept
  EXPECT_TRUE(shares.Share(0, 75).ok());
  EXPECT_EQ(phantom.CallCount("cuGreenCtxCreate") - made, 2u);  // one of them failed
  EXPECT_EQ(phantom.CallCount("cuGreenCtxDestroy"), destroyed);
  phantom.ArmFault("cuGreenCtxStreamCreate", 0, 1, 801);
  EXPECT_FALSE(shares.Share(1, 75).ok());
  phantom.DisarmFaults();
  EXPECT_EQ(phantom.CallCount("cuGreenCtxDestroy"), destroyed + 1);
}

}  // namespace
}  // namespace tide::pages

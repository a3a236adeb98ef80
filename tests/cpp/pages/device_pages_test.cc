// Device pages on the phantom driver: what the allocator asks for, moves between tiers, and every
// driver call failing at every position.
#include "pages/device_pages.h"

#include <cstdlib>
#include <cstring>
#include <numeric>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "phantom_pages.h"
#include "spill_folder.h"

namespace tide::pages {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

class DevicePagesTest : public PhantomPagesTest {
 protected:
  DevicePagesTest() { Remake({}); }

  void Remake(DevicePagesOptions options) {
    pages_ = std::make_unique<DevicePages>(
        driver_, std::vector<Account*>{&accounts_[0], &accounts_[1]}, std::move(options));
    auto spill = SpillFile::Open({.dir = folder_.path()});
    ASSERT_TRUE(spill.ok()) << spill.status();
    spill_ = *std::move(spill);
    pages_->set_spill(spill_.get());
  }

  struct Segment {
    cuda::DevicePointer at = 0;
    size_t size = 0;
    std::vector<cuda::Handle> tokens;
  };
  /// As PyTorch's allocator grows a segment: reserve, then create, map and one set-access.
  Segment Grow(int count, size_t page = 2 * kMiB, int handle_types = cuda::kHandleFileDescriptor) {
    Segment segment;
    segment.size = count * page;
    EXPECT_EQ(driver_.calls().address_reserve(&segment.at, segment.size, 0, 0, 0), 0);
    cuda::AllocationProperties properties;
    properties.handle_types = handle_types;
    for (int i = 0; i < count; ++i) {
      cuda::Handle token = 0;
      EXPECT_EQ(pages_->Create(&token, page, &properties, 0), 0);
      EXPECT_EQ(pages_->Map(segment.at + i * page, page, 0, token, 0), 0);
      segment.tokens.push_back(token);
    }
    const cuda::AccessDescriptor access;
    EXPECT_EQ(pages_->SetAccess(segment.at, segment.size, &access, 1), 0);
    return segment;
  }
  void Shrink(Segment& segment) {
    const size_t page = segment.size / segment.tokens.size();
    for (size_t i = 0; i < segment.tokens.size(); ++i) {
      EXPECT_EQ(pages_->Unmap(segment.at + i * page, page), 0);
      EXPECT_EQ(pages_->Release(segment.tokens[i]), 0);
    }
    EXPECT_EQ(driver_.calls().address_free(segment.at, segment.size), 0);
  }
  std::vector<uint32_t> Fill(const Segment& segment, uint32_t first) {
    std::vector<uint32_t> values(segment.size / sizeof(uint32_t));
    std::iota(values.begin(), values.end(), first);
    EXPECT_EQ(driver_.calls().copy_to_device(segment.at, values.data(), segment.size), 0);
    return values;
  }
  std::vector<uint32_t> Read(const Segment& segment) {
    std::vector<uint32_t> values(segment.size / sizeof(uint32_t));
    EXPECT_EQ(driver_.calls().copy_to_host(values.data(), segment.at, segment.size), 0);
    return values;
  }

  tide::testing::SpillFolder folder_;
  std::unique_ptr<SpillFile> spill_;
  std::unique_ptr<DevicePages> pages_;
};

TEST_F(DevicePagesTest, ASegmentIsChargedOnceAndGivenBackWhole) {
  Segment segment = Grow(4);
  EXPECT_EQ(accounts_[0].used(), MiB(8));
  EXPECT_EQ(phantom_.ledger().used, 8 * kMiB);
  EXPECT_EQ(pages_->counts(0).reserved(), MiB(8));
  const auto values = Fill(segment, 7);
  EXPECT_EQ(Read(segment), values);
  EXPECT_TRUE(pages_->Validate().ok());
  Shrink(segment);
  EXPECT_EQ(pages_->counts(0).device, Bytes(0));
}

TEST_F(DevicePagesTest, OverTheLimitTheAllocatorHearsOutOfMemoryAndNothingIsLeft) {
  accounts_[0].set_limit(MiB(4));
  Segment segment = Grow(2);
  cuda::Handle token = 0;
  const cuda::AllocationProperties properties;
  EXPECT_EQ(pages_->Create(&token, 2 * kMiB, &properties, 0), cuda::kOutOfMemory);
  EXPECT_EQ(pages_->counts(0).refused, 1);
  EXPECT_EQ(accounts_[0].used(), MiB(4));
  accounts_[0].set_limit(MiB(6));
  EXPECT_EQ(pages_->Create(&token, 2 * kMiB, &properties, 0), cuda::kSuccess);
  EXPECT_EQ(pages_->Release(token), cuda::kSuccess);
  Shrink(segment);
}

TEST_F(DevicePagesTest, SparesAreReusedAndGivenBackBeforeAnybodyIsRefused) {
  Remake({.spare_max = MiB(8)});
  Segment segment = Grow(4);
  Shrink(segment);
  EXPECT_EQ(pages_->counts(0).spare, MiB(8));
  segment = Grow(2);
  EXPECT_EQ(pages_->counts(0).reused, 2);
  EXPECT_EQ(pages_->counts(0).spare, MiB(4));
  accounts_[0].set_limit(MiB(8));
  Segment larger = Grow(1, 4 * kMiB);  // fits once the two spares of 2 MiB are gone
  EXPECT_EQ(pages_->counts(0).spare, Bytes(0));
  accounts_[0].set_limit(Bytes(0));
  Shrink(larger);
  Shrink(segment);
}

TEST_F(DevicePagesTest, WhoNeedsMemoryAsksOnceMoreBeforeItIsRefused) {
  int asked = 0;
  Remake({.need_memory = [&](int device, Bytes size) {
    ++asked;
    EXPECT_EQ(device, 0);
    EXPECT_EQ(size, MiB(2));
    accounts_[0].set_limit(MiB(4));  // as if somebody had given memory back
    return true;
  }});
  accounts_[0].set_limit(MiB(2));
  Segment segment = Grow(2);
  EXPECT_EQ(asked, 1);
  Shrink(segment);
}

TEST_F(DevicePagesTest, HandlesThatAreNotOursPassThrough) {
  const cuda::AllocationProperties properties;
  cuda::Handle born_before = 0;
  cuda::DevicePointer at = 0;
  ASSERT_EQ(driver_.calls().create(&born_before, 2 * kMiB, &properties, 0), 0);
  ASSERT_EQ(driver_.calls().address_reserve(&at, 2 * kMiB, 0, 0, 0), 0);
  EXPECT_EQ(pages_->Map(at, 2 * kMiB, 0, born_before, 0), 0);
  const cuda::AccessDescriptor access;
  EXPECT_EQ(pages_->SetAccess(at, 2 * kMiB, &access, 1), 0);
  EXPECT_EQ(pages_->Unmap(at, 2 * kMiB), 0);
  EXPECT_EQ(pages_->Release(born_before), 0);
  EXPECT_EQ(driver_.calls().address_free(at, 2 * kMiB), 0);
  EXPECT_EQ(pages_->counts(0).creates, 0);
}

TEST_F(DevicePagesTest, TheFabricProbeGetsTheDriversAnswer) {
  cuda::AllocationProperties properties;
  properties.handle_types = 8;
  cuda::Handle handle = 0;
  EXPECT_EQ(pages_->Create(&handle, 2 * kMiB, &properties, 0), cuda::kNotPermitted);
  EXPECT_EQ(pages_->counts(0).creates, 0);
}

TEST_F(DevicePagesTest, SharedMemoryIsExportedAndStaysWhereItIs) {
  Segment segment = Grow(1);
  int fd = -1;
  ASSERT_EQ(pages_->Export(&fd, segment.tokens[0], cuda::kHandleFileDescriptor, 0), 0);
  EXPECT_EQ(pages_->Demote(segment.tokens[0], DeviceTier::kHostCopy).code(),
            absl::StatusCode::kFailedPrecondition);
  cuda::Handle imported = 0;
  EXPECT_EQ(
      driver_.calls().import_handle(&imported, reinterpret_cast<void*>(static_cast<intptr_t>(fd)),
                                    cuda::kHandleFileDescriptor),
      0);
  EXPECT_EQ(driver_.calls().release(imported), 0);
  close(fd);
  Shrink(segment);
}

TEST_F(DevicePagesTest, WhatIsAwayCannotBeSharedUntilItIsBack) {
  Segment segment = Grow(1);
  int fd = -1;
  const auto share = [&] {
    return pages_->Export(&fd, segment.tokens[0], cuda::kHandleFileDescriptor, 0);
  };
  ASSERT_TRUE(pages_->Demote(segment.tokens[0], DeviceTier::kHostMapped).ok());
  EXPECT_EQ(share(), cuda::kNotPermitted);
  ASSERT_TRUE(pages_->Promote(segment.tokens[0]).ok());
  ASSERT_EQ(share(), cuda::kSuccess);
  close(fd);
  Shrink(segment);
}

TEST_F(DevicePagesTest, WithoutMappableHostMemoryThatTierIsRefusedAndTheOthersWork) {
  phantom_.SetHostNuma(false);
  Segment segment = Grow(1);
  const auto values = Fill(segment, 3);
  EXPECT_FALSE(pages_->host_mapping());
  EXPECT_TRUE(absl::IsUnimplemented(pages_->Demote(segment.tokens[0], DeviceTier::kHostMapped)));
  EXPECT_TRUE(pages_->Demote(segment.tokens[0], DeviceTier::kHostCopy).ok());
  EXPECT_TRUE(pages_->Promote(segment.tokens[0]).ok());
  EXPECT_EQ(Read(segment), values);
  Shrink(segment);
}

TEST_F(DevicePagesTest, AMappedHostPageIsReadAndWrittenAtItsAddress) {
  Segment segment = Grow(3);
  Fill(segment, 1);
  ASSERT_TRUE(pages_->Demote(segment.tokens[1], DeviceTier::kHostMapped).ok());
  EXPECT_EQ(accounts_[0].used(), MiB(4));
  EXPECT_EQ(phantom_.ledger().used, 4 * kMiB);
  const auto values = Fill(segment, 100);  // the job goes on while the page is away
  EXPECT_EQ(Read(segment), values);
  ASSERT_TRUE(pages_->Promote(segment.tokens[1]).ok());
  EXPECT_EQ(Read(segment), values);
  EXPECT_EQ(accounts_[0].used(), MiB(6));
  Shrink(segment);
}

TEST_F(DevicePagesTest, APageThatIsAwayAsACopyLeavesAHoleThatAccessesFind) {
  Segment segment = Grow(2);
  ASSERT_TRUE(pages_->Demote(segment.tokens[0], DeviceTier::kHostCopy).ok());
  std::vector<char> to(16);
  EXPECT_EQ(driver_.calls().copy_to_host(to.data(), segment.at, 16), cuda::kIllegalAddress);
  phantom_.Forgive();
  ASSERT_TRUE(pages_->Promote(segment.tokens[0]).ok());
  EXPECT_EQ(driver_.calls().copy_to_host(to.data(), segment.at, 16), cuda::kSuccess);
  Shrink(segment);
}

TEST_F(DevicePagesTest, TheAllocatorMayUnmapReleaseAndMapAgainWhatIsAway) {
  for (DeviceTier tier : {DeviceTier::kHostMapped, DeviceTier::kHostCopy, DeviceTier::kFile}) {
    Segment segment = Grow(2);
    ASSERT_TRUE(pages_->Demote(segment.tokens[0], tier).ok());
    EXPECT_EQ(pages_->Unmap(segment.at, 2 * kMiB), 0);
    EXPECT_EQ(pages_->Map(segment.at, 2 * kMiB, 0, segment.tokens[0], 0), 0);
    const cuda::AccessDescriptor access;
    EXPECT_EQ(pages_->SetAccess(segment.at, 4 * kMiB, &access, 1), 0);
    EXPECT_TRUE(pages_->Validate().ok()) << pages_->Validate();
    ASSERT_TRUE(pages_->Demote(segment.tokens[1], tier).ok());
    Shrink(segment);
    EXPECT_EQ(spill_->used(), Bytes(0));
  }
}

TEST_F(DevicePagesTest, APageThatReturnsAsksNobodyForItsRoom) {
  // Once a job that only wished its pages back waited for others at its boundary, as long as one
  // that cannot go on: need.wait_ms in each of its iterations.
  int asked = 0;
  Remake({.need_memory = [&](int, Bytes) { return ++asked > 0; }});
  Segment segment = Grow(2);
  ASSERT_TRUE(pages_->Demote(segment.tokens[0], DeviceTier::kHostMapped).ok());
  accounts_[0].set_limit(MiB(2));
  EXPECT_TRUE(absl::IsResourceExhausted(pages_->Promote(segment.tokens[0])));
  EXPECT_EQ(asked, 0);
  accounts_[0].set_limit(Bytes(0));
  ASSERT_TRUE(pages_->Promote(segment.tokens[0]).ok());
  Shrink(segment);
}

TEST_F(DevicePagesTest, PromotionIsRefusedWhenTheLimitDoesNotAllowItAndThePageStaysAway) {
  Segment segment = Grow(2);
  const auto values = Fill(segment, 5);
  ASSERT_TRUE(pages_->Demote(segment.tokens[0], DeviceTier::kFile).ok());
  accounts_[0].set_limit(MiB(2));
  EXPECT_TRUE(absl::IsResourceExhausted(pages_->Promote(segment.tokens[0])));
  EXPECT_EQ(pages_->counts(0).file, MiB(2));
  accounts_[0].set_limit(Bytes(0));
  ASSERT_TRUE(pages_->Promote(segment.tokens[0]).ok());
  EXPECT_EQ(Read(segment), values);
  Shrink(segment);
}

TEST_F(DevicePagesTest, EachDeviceHasItsOwnAccount) {
  cuda::AllocationProperties properties;
  properties.location.id = 1;
  cuda::Handle token = 0;
  ASSERT_EQ(pages_->Create(&token, 4 * kMiB, &properties, 0), 0);
  EXPECT_EQ(accounts_[0].used(), Bytes(0));
  EXPECT_EQ(accounts_[1].used(), MiB(4));
  EXPECT_EQ(pages_->Snapshot(1).size(), 1u);
  EXPECT_EQ(pages_->Release(token), 0);
  EXPECT_EQ(accounts_[1].used(), Bytes(0));
}

TEST_F(DevicePagesTest, MovesAndTheAllocatorsCallsRunSideBySide) {
  Segment mine = Grow(4);
  const auto values = Fill(mine, 9);
  std::thread allocator([this] {
    const cuda::ScopedContext context(driver_, 0);
    for (int round = 0; round < 50; ++round) {
      Segment other = Grow(3);
      Shrink(other);
    }
  });
  for (int round = 0; round < 25; ++round) {
    const DeviceTier tier = round % 2 == 0 ? DeviceTier::kHostMapped : DeviceTier::kHostCopy;
    for (cuda::Handle token : mine.tokens) ASSERT_TRUE(pages_->Demote(token, tier).ok());
    for (cuda::Handle token : mine.tokens) ASSERT_TRUE(pages_->Promote(token).ok());
  }
  allocator.join();
  EXPECT_EQ(Read(mine), values);
  Shrink(mine);
}

// ---- a fault at every driver call ----

class FaultTest : public DevicePagesTest {
 protected:
  /// Runs `step` with the i-th driver call failing, for every i, until it makes fewer calls. After
  /// each failure `check` looks at the state, and `step` then succeeds.
  template <typename Step, typename Check, typename Undo>
  int Sweep(Step step, Check check, Undo undo) {
    for (int position = 0; position < 200; ++position) {
      const uint64_t before = AllCalls();
      phantom_.ArmFault("*", position, 1, 999);
      const bool worked = step();
      const bool reached = AllCalls() - before > static_cast<uint64_t>(position);
      phantom_.DisarmFaults();
      SCOPED_TRACE(::testing::Message() << "call " << position);
      check(worked);
      EXPECT_TRUE(pages_->Validate().ok()) << pages_->Validate();
      if (!worked) {
        EXPECT_TRUE(step());
        check(true);
      }
      undo();
      if (!reached) return position;
    }
    ADD_FAILURE() << "the step never ends";
    return -1;
  }
  uint64_t AllCalls() const {
    uint64_t total = 0;
    for (const char* call :
         {"cuDevicePrimaryCtxRetain", "cuCtxSetCurrent", "cuMemGetAllocationGranularity",
          "cuMemAddressReserve", "cuMemAddressFree", "cuMemCreate", "cuMemRelease", "cuMemMap",
          "cuMemUnmap", "cuMemSetAccess", "cuMemHostRegister", "cuMemHostUnregister",
          "cuMemcpyHtoD", "cuMemcpyDtoH", "cuMemcpyDtoD"}) {
      total += phantom_.CallCount(call);
    }
    return total;
  }
};

class EveryFault : public FaultTest, public ::testing::WithParamInterface<DeviceTier> {};

TEST_P(EveryFault, ADemotionThatFailsAnywhereLeavesThePageOnTheDevice) {
  pages_->host_mapping();
  Segment segment = Grow(2);
  const auto values = Fill(segment, 11);
  const cuda::Handle token = segment.tokens[0];
  const int positions = Sweep([&] { return pages_->Demote(token, GetParam()).ok(); },
                              [&](bool worked) {
                                const bool away =
                                    pages_->Snapshot(0)[0].tier != DeviceTier::kDevice;
                                EXPECT_EQ(away, worked);
                                if (!away) {
                                  EXPECT_EQ(Read(segment), values);
                                }
                                EXPECT_EQ(accounts_[0].used(), away ? MiB(2) : MiB(4));
                              },
                              [&] {
                                ASSERT_TRUE(pages_->Promote(token).ok());
                                EXPECT_EQ(Read(segment), values);
                              });
  EXPECT_GE(positions, 4);
  Shrink(segment);
}

TEST_P(EveryFault, APromotionThatFailsAnywhereLeavesThePageAway) {
  pages_->host_mapping();
  Segment segment = Grow(2);
  const auto values = Fill(segment, 13);
  const cuda::Handle token = segment.tokens[0];
  ASSERT_TRUE(pages_->Demote(token, GetParam()).ok());
  const int positions =
      Sweep([&] { return pages_->Promote(token).ok(); },
            [&](bool worked) {
              EXPECT_EQ(pages_->Snapshot(0)[0].tier == DeviceTier::kDevice, worked);
              if (worked) {
                EXPECT_EQ(Read(segment), values);
              }
            },
            [&] { ASSERT_TRUE(pages_->Demote(token, GetParam()).ok()); });
  EXPECT_GE(positions, 4);
  Shrink(segment);
}

TEST_F(FaultTest, TheAllocatorsCallsFailCleanlyAtEveryPosition) {
  Segment segment = Grow(1);
  cuda::DevicePointer at = 0;
  ASSERT_EQ(driver_.calls().address_reserve(&at, 2 * kMiB, 0, 0, 0), 0);
  const cuda::AllocationProperties properties;
  const cuda::AccessDescriptor access;
  for (int position = 0; position < 5; ++position) {
    phantom_.ArmFault("*", position, 1, 999);
    // As the allocator does: undo what has been done when a later call fails.
    cuda::Handle token = 0;
    const bool created = pages_->Create(&token, 2 * kMiB, &properties, 0) == 0;
    const bool mapped = created && pages_->Map(at, 2 * kMiB, 0, token, 0) == 0;
    const bool usable = mapped && pages_->SetAccess(at, 2 * kMiB, &access, 1) == 0;
    EXPECT_EQ(usable, position >= 3);
    const bool unmapped = mapped && pages_->Unmap(at, 2 * kMiB) == 0;
    phantom_.DisarmFaults();
    if (mapped && !unmapped) {
      EXPECT_EQ(pages_->Unmap(at, 2 * kMiB), 0);
    }
    phantom_.ArmFault("cuMemRelease", 0, position == 4 ? 1 : 0, 999);
    const bool released = created && pages_->Release(token) == 0;
    phantom_.DisarmFaults();
    if (created && !released) {
      EXPECT_EQ(pages_->Release(token), 0);
    }
    EXPECT_TRUE(pages_->Validate().ok()) << pages_->Validate();
    EXPECT_EQ(accounts_[0].used(), MiB(2));
  }
  EXPECT_EQ(driver_.calls().address_free(at, 2 * kMiB), 0);
  Shrink(segment);
}

std::string TierName(const ::testing::TestParamInfo<DeviceTier>& info) {
  constexpr const char* kNames[] = {"Device", "HostMapped", "HostCopy", "File"};
  return kNames[static_cast<int>(info.param)];
}
INSTANTIATE_TEST_SUITE_P(Tiers, EveryFault,
                         ::testing::Values(DeviceTier::kHostMapped, DeviceTier::kHostCopy,
                                           DeviceTier::kFile),
                         TierName);

// ---- the driver itself ----

TEST(DriverTest, AMachineWithoutADriverSaysSo) {
  const auto driver = cuda::Driver::Open("libcuda-that-is-not-there.so.1");
  EXPECT_TRUE(absl::IsNotFound(driver.status())) << driver.status();
}

TEST(DriverTest, DevicesAreNamedAndTheDriversOwnLookUpDiffersFromTheLinkers) {
  const cuda::Driver& driver = PhantomDriver();
  EXPECT_EQ(driver.device_count(), 2);
  EXPECT_THAT(driver.DeviceUuid(1), ::testing::StartsWith("GPU-7068616e-746f-6d2d-"));
  EXPECT_NE(driver.DeviceUuid(0), driver.DeviceUuid(1));
  EXPECT_NE(driver.Symbol("cuMemCreate"), driver.LookUp("cuMemCreate", 12000));
  EXPECT_EQ(driver.LookUp("noSuchCall", 12000), nullptr);
  EXPECT_TRUE(absl::IsResourceExhausted(driver.Check(cuda::kOutOfMemory, "x")));
  EXPECT_TRUE(absl::IsInvalidArgument(driver.Check(cuda::kInvalidValue, "x")));
  EXPECT_TRUE(absl::IsInternal(driver.Check(999, "x"))) << "nobody's value was wrong";
}

}  // namespace
}  // namespace tide::pages

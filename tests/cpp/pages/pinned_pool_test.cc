// Host memory for pages that are away: blocks, chunks, and a driver that refuses.
#include "pages/pinned_pool.h"

#include <unistd.h>

#include <cstring>
#include <string>

#include "gtest/gtest.h"
#include "phantom/control.h"

namespace tide::pages {
namespace {

class PinnedPoolTest : public ::testing::Test {
 protected:
  static const cuda::Driver& TheDriver() {
    static const cuda::Driver& driver = *[] {
      phantom::Configure("pinned-pool-" + std::to_string(getpid()), 256, 1);
      return cuda::Driver::Open(TIDE_PHANTOM_DRIVER).value().release();
    }();
    return driver;
  }
  PinnedPoolTest() : phantom_(TheDriver()), pool_(TheDriver()) { phantom_.DisarmFaults(); }
  ~PinnedPoolTest() override { phantom_.DisarmFaults(); }
  uint64_t Registered() { return phantom_.CallCount("cuMemHostRegister"); }

  phantom::Control phantom_;
  PinnedPool pool_;
};

TEST_F(PinnedPoolTest, BlocksOfOnePreparationShareAChunkAndDoNotOverlap) {
  const uint64_t before = Registered();
  pool_.Prepare(MiB(26));
  char* const first = pool_.Acquire(MiB(20)).value();
  char* const second = pool_.Acquire(MiB(2)).value();
  char* const third = pool_.Acquire(MiB(4)).value();
  EXPECT_EQ(Registered() - before, 1u);
  EXPECT_EQ(pool_.held(), MiB(26));
  EXPECT_EQ(pool_.used(), MiB(26));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % kPage.size(), 0u);
  std::memset(first, 1, MiB(20).size());
  std::memset(second, 2, MiB(2).size());
  std::memset(third, 3, MiB(4).size());
  EXPECT_EQ(first[MiB(20).size() - 1], 1);
  EXPECT_EQ(second[MiB(2).size() - 1], 2);
  EXPECT_EQ(third[0], 3);
}

TEST_F(PinnedPoolTest, WhatIsReleasedIsUsedAgainAndOnlyTheRestIsPrepared) {
  char* const block = pool_.Acquire(MiB(4)).value();
  pool_.Release(block, MiB(4));
  pool_.Prepare(MiB(6));
  EXPECT_EQ(pool_.Acquire(MiB(4)).value(), block);
  ASSERT_TRUE(pool_.Acquire(MiB(2)).ok());
  EXPECT_EQ(pool_.held(), MiB(6));
}

TEST_F(PinnedPoolTest, SizesAreRoundedUpToPages) {
  ASSERT_TRUE(pool_.Acquire(Bytes(1)).ok());
  EXPECT_EQ(pool_.used(), kPage);
}

TEST_F(PinnedPoolTest, TrimmingGivesBackUnusedChunksAloneAndKeepsWhatIsAsked) {
  char* const used = pool_.Acquire(MiB(2)).value();
  char* const unused = pool_.Acquire(MiB(8)).value();
  ASSERT_TRUE(pool_.Acquire(MiB(4)).ok());
  pool_.Release(unused, MiB(8));
  pool_.Trim(MiB(14));
  EXPECT_EQ(pool_.held(), MiB(14));
  pool_.Trim(MiB(0));
  EXPECT_EQ(pool_.held(), MiB(6));
  std::memset(used, 1, MiB(2).size());
}

TEST_F(PinnedPoolTest, AFailedPreparationIsTriedAgainByWhoNeedsIt) {
  phantom_.ArmFault("cuMemHostRegister", 0, 1, cuda::kOutOfMemory);
  pool_.Prepare(MiB(4));
  EXPECT_TRUE(pool_.Acquire(MiB(4)).ok());
}

TEST_F(PinnedPoolTest, ADriverThatRegistersNothingIsAnErrorAndNothingIsHeld) {
  phantom_.ArmFault("cuMemHostRegister", 0, 100, cuda::kOutOfMemory);
  pool_.Prepare(MiB(4));
  EXPECT_TRUE(absl::IsResourceExhausted(pool_.Acquire(MiB(4)).status()));
  EXPECT_EQ(pool_.held(), Bytes(0));
}

TEST_F(PinnedPoolTest, MemoryThatTheSystemDoesNotHaveIsAnError) {
  const auto block = pool_.Acquire(Bytes(int64_t{1} << 50));
  EXPECT_TRUE(absl::IsResourceExhausted(block.status())) << block.status();
}

TEST_F(PinnedPoolTest, AChunkThatTheDriverKeepsIsGivenBackLater) {
  pool_.Release(pool_.Acquire(MiB(2)).value(), MiB(2));
  phantom_.ArmFault("cuMemHostUnregister", 0, 1, 999);
  pool_.Trim(Bytes(0));
  EXPECT_EQ(pool_.held(), MiB(2));
  pool_.Trim(Bytes(0));
  EXPECT_EQ(pool_.held(), Bytes(0));
}

}  // namespace
}  // namespace tide::pages

// The books of a lane whose scratch consists of chunks: what the ledger holds, and who is asked.
#include <map>
#include <random>

#include "cpp/shm/child_process.h"
#include "gmock/gmock.h"
#include "shm/device_file.h"
#include "shm/slot_table.h"

namespace tide::shm {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class LaneBooksTest : public ::testing::Test {
 protected:
  LaneBooksTest() : device_(*DeviceFile::Open(temp_.path() + "/run", "cuda_0")) {}
  SlotId Member(int lane = 0) {
    const SlotId slot = *device_->Claim("job");
    device_->slot(slot).lane.store(lane);
    return slot;
  }
  Bytes scratch(int lane = 0) const { return Bytes(device_->lane(LaneId(lane)).scratch_bytes); }

  testing::TempDir temp_;
  std::unique_ptr<DeviceFile> device_;
};

TEST_F(LaneBooksTest, ALaneIsChargedWithTheMostThatAMemberHasOfEachSize) {
  const SlotId a = Member(), b = Member();
  EXPECT_THAT(*device_->HoldChunks(a, MiB(20), 15), IsEmpty()) << "nobody has them";
  EXPECT_EQ(device_->Used(), MiB(300));
  EXPECT_THAT(*device_->HoldChunks(b, MiB(20), 10), ElementsAre(getpid()));
  EXPECT_EQ(device_->Used(), MiB(300));
  EXPECT_THAT(*device_->HoldChunks(b, MiB(2), 4), IsEmpty());
  EXPECT_EQ(device_->Used(), MiB(308));
  EXPECT_EQ(ChunkBytes(device_->table(), b), MiB(208));
  EXPECT_EQ(OwnChunkBytes(device_->table(), a), MiB(100));
  EXPECT_EQ(OwnChunkBytes(device_->table(), b), MiB(8));
  EXPECT_THAT(*device_->HoldChunks(a, MiB(20), 0), ElementsAre(getpid()));
  EXPECT_EQ(device_->Used(), MiB(208));
  device_->Free(b);
  EXPECT_EQ(device_->Used(), Bytes(0));
}

TEST_F(LaneBooksTest, LanesDoNotMix) {
  const SlotId a = Member(0), b = Member(1);
  EXPECT_TRUE(device_->HoldChunks(a, MiB(20), 2).ok());
  EXPECT_THAT(*device_->HoldChunks(b, MiB(20), 3), IsEmpty());
  EXPECT_EQ(scratch(0), MiB(40));
  EXPECT_EQ(scratch(1), MiB(60));
  EXPECT_EQ(device_->Used(), MiB(100));
}

TEST_F(LaneBooksTest, WhatDoesNotFitTheDeviceChangesNothing) {
  device_->SetCapacity(MiB(50));
  const SlotId a = Member(), b = Member();
  EXPECT_TRUE(device_->HoldChunks(a, MiB(20), 2).ok());
  EXPECT_EQ(device_->HoldChunks(b, MiB(20), 3).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(device_->slot(b).chunks[0].load(), 0);
  EXPECT_EQ(device_->Used(), MiB(40));
  EXPECT_TRUE(device_->HoldChunks(b, MiB(20), 2).ok()) << "what is there costs nothing";
}

TEST_F(LaneBooksTest, AKilledMemberIsTakenOutOfTheBooksOnce) {
  const SlotId own = Member();
  EXPECT_TRUE(device_->HoldChunks(own, MiB(20), 2).ok());
  testing::Child other([&] {
    const SlotId slot = Member();
    return device_->HoldChunks(slot, MiB(20), 5).ok() ? 0 : 1;
  });
  other.AwaitZombie();
  EXPECT_EQ(device_->Used(), MiB(100)) << "not seen yet";
  EXPECT_EQ(device_->ReapDead(), 1);
  EXPECT_EQ(device_->Used(), MiB(40));
  EXPECT_THAT(*device_->HoldChunks(own, MiB(20), 3), IsEmpty()) << "the dead are not asked";
  EXPECT_EQ(device_->Used(), MiB(60));
}

TEST_F(LaneBooksTest, TheDeadMakeRoomForWhoAsks) {
  device_->SetCapacity(MiB(100));
  const SlotId own = Member();
  testing::Child other([&] {
    const SlotId slot = Member();
    return device_->HoldChunks(slot, MiB(2), 50).ok() ? 0 : 1;
  });
  other.AwaitZombie();
  EXPECT_TRUE(device_->HoldChunks(own, MiB(20), 5).ok());
  EXPECT_EQ(device_->Used(), MiB(100));
}

TEST_F(LaneBooksTest, AFifthSizeIsRefusedUntilAnotherIsGone) {
  const SlotId a = Member();
  for (int i = 1; i <= kChunkSizes; ++i) EXPECT_TRUE(device_->HoldChunks(a, MiB(2 * i), 1).ok());
  EXPECT_EQ(device_->HoldChunks(a, MiB(20), 1).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(device_->HoldChunks(a, MiB(4), 0).ok());
  EXPECT_TRUE(device_->HoldChunks(a, MiB(20), 1).ok());
  EXPECT_EQ(device_->Used(), MiB(2 + 6 + 8 + 20));
}

TEST_F(LaneBooksTest, AGenerationThatIsLeftCountsOnceUntilItsLastMemberHasLeft) {
  const SlotId stuck = Member(), a = Member(), b = Member();
  for (SlotId slot : {stuck, a, b}) EXPECT_TRUE(device_->HoldChunks(slot, MiB(20), 5).ok());
  EXPECT_TRUE(device_->RenewChunks(LaneId(0)).ok());
  EXPECT_EQ(device_->Used(), MiB(100));
  auto renew = [&](SlotId slot) {
    ASSERT_TRUE(device_->HoldChunks(slot, MiB(20), 0).ok());
    device_->slot(slot).lane_generation.store(1);
  };
  renew(a);
  EXPECT_THAT(*device_->HoldChunks(a, MiB(20), 3), IsEmpty()) << "of the new ones";
  EXPECT_EQ(device_->Used(), MiB(160));
  EXPECT_EQ(OwnChunkBytes(device_->table(), a), MiB(60));
  renew(b);
  EXPECT_THAT(*device_->HoldChunks(b, MiB(20), 3), ElementsAre(getpid()));
  EXPECT_EQ(device_->Used(), MiB(160));
  EXPECT_THAT(*device_->HoldChunks(stuck, MiB(20), 6), IsEmpty()) << "it grows by itself";
  EXPECT_EQ(device_->Used(), MiB(180));
  EXPECT_EQ(RecountLane(device_->table(), LaneId(0)), Bytes(0));
  EXPECT_EQ(device_->Used(), MiB(180));
  renew(stuck);
  EXPECT_EQ(device_->Used(), MiB(60));
}

TEST_F(LaneBooksTest, ASecondGenerationThatDoesNotFitIsNotBegun) {
  device_->SetCapacity(MiB(150));
  const SlotId a = Member();
  EXPECT_TRUE(device_->HoldChunks(a, MiB(20), 5).ok());
  EXPECT_EQ(device_->RenewChunks(LaneId(0)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(device_->lane(LaneId(0)).generation.load(), 0u);
  EXPECT_EQ(device_->Used(), MiB(100));
}

TEST_F(LaneBooksTest, WithoutALaneThereAreNoChunks) {
  const SlotId a = *device_->Claim("job");
  EXPECT_EQ(device_->HoldChunks(a, MiB(2), 1).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

/// Members come, grow, shrink and go at random; the ledger follows a model.
TEST_F(LaneBooksTest, RandomStepsAgreeWithAModel) {
  const unsigned seed = std::random_device()();
  std::mt19937 random(seed);
  const Bytes sizes[] = {MiB(2), MiB(20), MiB(64)};
  std::map<SlotId, std::map<Bytes, int>> model;
  for (int step = 0; step < 400; ++step) {
    if (model.size() < 2 || (model.size() < 6 && random() % 8 == 0)) model[Member()];
    auto it = std::next(model.begin(), random() % model.size());
    if (random() % 10 == 0) {
      device_->Free(it->first);
      model.erase(it);
    } else {
      const Bytes size = sizes[random() % 3];
      const int count = static_cast<int>(random() % 12);
      ASSERT_TRUE(device_->HoldChunks(it->first, size, count).ok());
      it->second[size] = count;
    }
    Bytes expected;
    for (const Bytes size : sizes) {
      int most = 0;
      for (auto& [slot, counts] : model) most = std::max(most, counts[size]);
      expected += size * most;
    }
    ASSERT_EQ(device_->Used(), expected) << "seed " << seed << " step " << step;
    RecountLane(device_->table(), LaneId(0));
    ASSERT_EQ(device_->Used(), expected) << "recounted; seed " << seed << " step " << step;
  }
}

}  // namespace
}  // namespace tide::shm

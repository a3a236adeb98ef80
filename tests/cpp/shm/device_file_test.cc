// Opening the device table, claiming slots, the ledger: in one process.
#include "shm/device_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <memory>
#include <string>

#include "base/options.h"
#include "cpp/shm/child_process.h"
#include "gmock/gmock.h"
#include "shm/process.h"
#include "shm/slot_table.h"

namespace tide::shm {
namespace {

using ::testing::HasSubstr;
using testing::TempDir;

class DeviceFileTest : public ::testing::Test {
 protected:
  std::string dir() const { return temp_.path() + "/run"; }
  std::string file() const { return dir() + "/device-cpu0"; }
  std::unique_ptr<DeviceFile> Open() const {
    auto device = DeviceFile::Open(dir());
    EXPECT_TRUE(device.ok()) << device.status();
    return device.ok() ? *std::move(device) : nullptr;
  }
  absl::Status OpenError() const { return DeviceFile::Open(dir()).status(); }

  TempDir temp_;
};

TEST_F(DeviceFileTest, CreatesADirectoryAndAFileForTheUserAlone) {
  const auto device = Open();
  struct stat info;
  ASSERT_EQ(stat(dir().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0700u);
  ASSERT_EQ(stat(file().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);
  EXPECT_EQ(info.st_size, static_cast<off_t>(sizeof(DeviceTable)));
  EXPECT_EQ(device->Used(), Bytes(0));
  for (const LaneSlot& lane : device->table().lanes) {
    EXPECT_EQ(TurnWord::Holder(lane.turn.load()), -1);
  }
}

TEST_F(DeviceFileTest, ASecondOpenFindsWhatTheFirstWrote) {
  const auto first = Open();
  const SlotId slot = *first->Claim("train");
  const auto second = Open();
  ASSERT_EQ(second->WhoHoldsWhat().size(), 1u);
  EXPECT_EQ(second->WhoHoldsWhat()[0].name, "train");
  EXPECT_EQ(second->WhoHoldsWhat()[0].slot, slot);
  EXPECT_EQ(second->WhoHoldsWhat()[0].pid, getpid());
}

TEST_F(DeviceFileTest, RefusesADirectoryOpenToOthersASymbolicLinkAndAForeignFile) {
  ASSERT_EQ(mkdir(dir().c_str(), 0700), 0);
  ASSERT_EQ(chmod(dir().c_str(), 0750), 0);
  EXPECT_TRUE(absl::IsPermissionDenied(OpenError()));
  EXPECT_THAT(OpenError().message(), HasSubstr("chmod 700"));

  ASSERT_EQ(chmod(dir().c_str(), 0700), 0);
  ASSERT_EQ(symlink("/dev/null", file().c_str()), 0);
  EXPECT_TRUE(absl::IsPermissionDenied(OpenError()));
  ASSERT_EQ(unlink(file().c_str()), 0);

  Open();
  ASSERT_EQ(chmod(file().c_str(), 0640), 0);
  EXPECT_TRUE(absl::IsPermissionDenied(OpenError()));
  ASSERT_EQ(unlink(file().c_str()), 0);

  ASSERT_EQ(mkdir(file().c_str(), 0700), 0);
  EXPECT_FALSE(OpenError().ok());

  const std::string link = temp_.path() + "/link";
  ASSERT_EQ(symlink(dir().c_str(), link.c_str()), 0);
  EXPECT_TRUE(absl::IsPermissionDenied(DeviceFile::Open(link).status()));
}

TEST_F(DeviceFileTest, RefusesADirectoryOfAnotherUser) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give a directory away";
  ASSERT_EQ(mkdir(dir().c_str(), 0700), 0);
  ASSERT_EQ(chown(dir().c_str(), 12345, 12345), 0);
  EXPECT_TRUE(absl::IsPermissionDenied(OpenError()));
  EXPECT_THAT(OpenError().message(), HasSubstr("12345"));
}

TEST_F(DeviceFileTest, ATableOfAnotherBootIsStartedAnew) {
  {
    const auto device = Open();
    ASSERT_TRUE(device->Claim("before the boot").ok());
    device->table().header.boot_id[0] ^= 1;
    device->table().header.version.store(99);  // whatever version that was
  }
  const auto device = Open();
  EXPECT_TRUE(device->WhoHoldsWhat().empty());
  EXPECT_EQ(device->table().header.version.load(), kTableVersion);
}

TEST_F(DeviceFileTest, ACreationThatWasKilledHalfWayIsRepeated) {
  {
    const auto device = Open();
    device->table().header.magic.store(0);  // the magic is written last
    device->table().slots[3].state.store(2);
  }
  EXPECT_TRUE(Open()->WhoHoldsWhat().empty());
}

TEST_F(DeviceFileTest, AnotherVersionIsAClearErrorAndLeavesTheTableAlone) {
  const auto device = Open();
  device->table().header.version.store(kTableVersion + 1);
  EXPECT_TRUE(absl::IsFailedPrecondition(OpenError()));
  EXPECT_THAT(OpenError().message(), HasSubstr("remove the file"));
  device->table().header.version.store(kTableVersion);
  device->table().header.slot_bytes.store(64);
  EXPECT_TRUE(absl::IsFailedPrecondition(OpenError()));
  device->table().header.slot_bytes.store(sizeof(JobSlot));
  ASSERT_EQ(truncate(file().c_str(), sizeof(DeviceTable) + 64), 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(OpenError()));
  ASSERT_EQ(truncate(file().c_str(), sizeof(DeviceTable)), 0);
  EXPECT_TRUE(OpenError().ok());
}

TEST_F(DeviceFileTest, DeviceNamesCannotLeaveTheDirectory) {
  for (const char* name : {"", "../x", "a/b", "a b", "."}) {
    EXPECT_TRUE(absl::IsInvalidArgument(DeviceFile::Open(dir(), name).status())) << name;
  }
}

TEST_F(DeviceFileTest, AStoppedOwnerOfTheLockIsADeadlineAndNotAHang) {
  const auto device = Open();
  const auto lock = device->Lock();
  ASSERT_TRUE(lock.ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded(device->Lock(absl::Milliseconds(5)).status()));
}

TEST_F(DeviceFileTest, AllSlotsTakenIsAnErrorWithAdviceAndFreeingOneHelps) {
  const auto device = Open();
  for (int i = 0; i < kSlotCount; ++i) {
    const auto slot = device->Claim("many");
    ASSERT_TRUE(slot.ok()) << slot.status();
    EXPECT_EQ(slot->value(), i);
  }
  const auto refused = device->Claim("one more");
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status()));
  EXPECT_THAT(refused.status().message(), HasSubstr("256"));
  device->Free(SlotId(77));
  device->Free(SlotId(77));
  EXPECT_EQ(*device->Claim("one more"), SlotId(77));
}

TEST_F(DeviceFileTest, NamesAreCutAndAnOldNameLeavesNoTrace) {
  const auto device = Open();
  const SlotId slot = *device->Claim(std::string(500, 'x'));
  EXPECT_EQ(device->WhoHoldsWhat()[0].name, std::string(kNameBytes - 1, 'x'));
  device->Free(slot);
  ASSERT_EQ(*device->Claim("y"), slot);
  EXPECT_EQ(device->WhoHoldsWhat()[0].name, "y");
}

TEST_F(DeviceFileTest, AReservationOverTheCapacityChangesNothingAndNamesTheNumbers) {
  const auto device = Open();
  const SlotId a = *device->Claim("a"), b = *device->Claim("b");
  device->SetCapacity(MiB(100));
  EXPECT_TRUE(device->Reserve(a, &JobSlot::private_bytes, MiB(60)).ok());
  EXPECT_TRUE(device->Reserve(b, &JobSlot::private_bytes, MiB(40)).ok());
  const absl::Status refused = device->Reserve(b, &JobSlot::outside_bytes, MiB(1));
  EXPECT_TRUE(absl::IsResourceExhausted(refused));
  EXPECT_THAT(refused.message(), HasSubstr("asked for 1 MiB, but 100 MiB of the device's 100 MiB"));
  EXPECT_EQ(device->Used(), MiB(100));
  EXPECT_EQ(device->slot(b).peak_bytes.load(), MiB(40).value());
  EXPECT_TRUE(device->Reserve(a, &JobSlot::private_bytes, -MiB(60)).ok());
  EXPECT_TRUE(device->Reserve(b, &JobSlot::private_bytes, MiB(60)).ok());
  EXPECT_EQ(device->WhoHoldsWhat()[0].slot, b) << "the largest first";
}

TEST_F(DeviceFileTest, WithoutACapacityEverythingFits) {
  const auto device = Open();
  const SlotId slot = *device->Claim("a");
  EXPECT_TRUE(device->Reserve(slot, &JobSlot::private_bytes, GiB(1 << 20)).ok());
}

TEST_F(DeviceFileTest, GivingBackWakesWhoeverWaitsForMemory) {
  const auto device = Open();
  const SlotId slot = *device->Claim("a");
  const uint32_t seen = device->FreedWord();
  ASSERT_TRUE(device->Reserve(slot, &JobSlot::private_bytes, MiB(5)).ok());
  EXPECT_EQ(device->FreedWord(), seen);
  ASSERT_TRUE(device->Reserve(slot, &JobSlot::private_bytes, -MiB(5)).ok());
  EXPECT_NE(device->FreedWord(), seen);
  device->WaitFreed(seen, absl::InfiniteDuration());  // returns, because the word has moved
}

TEST_F(DeviceFileTest, FreeingASlotGivesItsBytesAndItsTurnBack) {
  const auto device = Open();
  const SlotId slot = *device->Claim("a");
  ASSERT_TRUE(device->Reserve(slot, &JobSlot::private_bytes, MiB(5)).ok());
  device->slot(slot).lane.store(2);
  device->table().lanes[2].turn.store(TurnWord::Make(slot.value(), 7));
  const uint32_t seen = device->FreedWord();
  device->Free(slot);
  EXPECT_EQ(device->Used(), Bytes(0));
  EXPECT_NE(device->FreedWord(), seen);
  EXPECT_EQ(device->table().lanes[2].turn.load(), TurnWord::Make(TurnWord::kNobody, 8));
}

TEST_F(DeviceFileTest, AProcessThatEndsPassesItsTurnOnAtOnceAndCountsUntilItIsDead) {
  const auto device = Open();
  const SlotId slot = *device->Claim("a");
  ASSERT_TRUE(device->Reserve(slot, &JobSlot::private_bytes, MiB(5)).ok());
  device->slot(slot).lane.store(2);
  device->table().lanes[2].turn.store(TurnWord::Make(slot.value(), 7));
  device->Retire(slot);
  device->Retire(slot);
  EXPECT_EQ(device->table().lanes[2].turn.load(), TurnWord::Make(TurnWord::kNobody, 8));
  EXPECT_EQ(device->ReapDead(), 0);
  EXPECT_EQ(device->Used(), MiB(5));
  EXPECT_TRUE(IsLeaving(device->slot(slot)));
  device->slot(slot).start_time.fetch_add(1);  // as a process that has ended
  EXPECT_EQ(device->ReapDead(), 1);
  EXPECT_EQ(device->Used(), Bytes(0));
  EXPECT_FALSE(IsLeaving(device->slot(slot)));
}

TEST_F(DeviceFileTest, RuntimeDirFollowsOptionThenSessionThenUser) {
  ASSERT_TRUE(SetOption("runtime_dir", "/somewhere/else", "call").ok());
  EXPECT_EQ(RuntimeDir(), "/somewhere/else");
  ASSERT_TRUE(SetOption("runtime_dir", "", "call").ok());
  EXPECT_THAT(RuntimeDir(), HasSubstr("/torchtide"));
}

TEST(TurnWordTest, EpochsOnlyGrowAndOddOnesAreTaken) {
  const uint64_t empty = TurnWord::Make(TurnWord::kNobody, 0);
  EXPECT_EQ(TurnWord::Holder(empty), -1);
  const uint64_t granted = TurnWord::Grant(empty, 3);
  EXPECT_EQ(TurnWord::Holder(granted), 3);
  EXPECT_FALSE(TurnWord::Taken(granted));
  const uint64_t taken = TurnWord::Take(granted);
  EXPECT_EQ(TurnWord::Holder(taken), 3);
  EXPECT_TRUE(TurnWord::Taken(taken));
  EXPECT_GT(TurnWord::Epoch(taken), TurnWord::Epoch(granted));
  const uint64_t regranted = TurnWord::Grant(taken, 255);
  EXPECT_GT(TurnWord::Epoch(regranted), TurnWord::Epoch(taken));
  EXPECT_FALSE(TurnWord::Taken(regranted));
  EXPECT_EQ(TurnWord::Holder(TurnWord::Grant(regranted, TurnWord::kNobody)), -1);
}

// A table in plain memory with `lane` members that map scratch generations.
class RecountTest : public ::testing::Test {
 protected:
  RecountTest() { InitialiseTable(*table_, "boot"); }
  void Map(int slot, uint64_t generation, int64_t retired_bytes) {
    JobSlot& entry = table_->slots[slot];
    entry.state.store(static_cast<uint32_t>(SlotState::kLive));
    entry.lane.store(1);
    entry.lane_fd.store(9);
    entry.lane_generation.store(generation);
    entry.retired_scratch_bytes.store(retired_bytes);
  }
  std::unique_ptr<DeviceTable> table_ = std::make_unique<DeviceTable>();
};

TEST_F(RecountTest, AnOldGenerationCountsOnceUntilItsLastMemberHasLeft) {
  LaneSlot& lane = table_->lanes[1];
  lane.generation.store(5);
  lane.scratch_bytes.store(100);
  lane.retired_bytes.store(70);
  Map(0, 5, 0);
  Map(1, 4, 30);
  Map(2, 4, 30);
  Map(3, 3, 40);
  EXPECT_EQ(RecountLane(*table_, LaneId(1)), Bytes(0));
  EXPECT_EQ(lane.retired_bytes.load(), 70);
  table_->slots[1].lane_fd.store(-1);
  EXPECT_EQ(RecountLane(*table_, LaneId(1)), Bytes(0));
  table_->slots[2].lane_generation.store(5);
  EXPECT_EQ(RecountLane(*table_, LaneId(1)), Bytes(30));
  EXPECT_EQ(lane.retired_bytes.load(), 40);
  table_->slots[0].state.store(0);
  table_->slots[2].state.store(0);
  table_->slots[3].state.store(0);
  EXPECT_EQ(RecountLane(*table_, LaneId(1)), Bytes(140));
  EXPECT_EQ(TableUsed(*table_), Bytes(0));
}

}  // namespace
}  // namespace tide::shm

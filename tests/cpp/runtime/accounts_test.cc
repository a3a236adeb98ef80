// The accounts: the job's limit first, then the device, and one payment for a lane that members
// share.
#include "runtime/accounts.h"

#include <memory>

#include "cpp/shm/child_process.h"
#include "gtest/gtest.h"

namespace tide::runtime {
namespace {

class AccountsTest : public ::testing::Test {
 protected:
  AccountsTest() : device_(*shm::DeviceFile::Open(temp_.path())), slot_(*device_->Claim("job")) {}
  testing::TempDir temp_;
  std::unique_ptr<shm::DeviceFile> device_;
  SlotId slot_;
};

TEST_F(AccountsTest, TheJobsOwnLimitIsOutOfRangeAndTheFullDeviceResourceExhausted) {
  JobAccount account(*device_, slot_);
  device_->SetCapacity(MiB(10));
  account.SetLimit(MiB(4));
  ASSERT_TRUE(account.Reserve(MiB(4)).ok());
  EXPECT_TRUE(absl::IsOutOfRange(account.Reserve(MiB(2))));
  account.SetLimit(Bytes(0));
  EXPECT_TRUE(absl::IsResourceExhausted(account.Reserve(MiB(8))));
  EXPECT_EQ(account.private_bytes(), MiB(4)) << "refusals change nothing";
  account.Release(MiB(4));
  EXPECT_EQ(device_->Used(), Bytes(0));
}

TEST_F(AccountsTest, TheLimitCountsWhatIsOutsideOfPages) {
  JobAccount account(*device_, slot_);
  account.SetLimit(MiB(6));
  device_->slot(slot_).outside_bytes.store(MiB(3).value());
  EXPECT_TRUE(absl::IsOutOfRange(account.Reserve(MiB(4))));
  EXPECT_TRUE(account.Reserve(MiB(2)).ok());
}

TEST_F(AccountsTest, ForcedBytesAreThereWhateverTheLimit) {
  JobAccount account(*device_, slot_);
  account.SetLimit(MiB(1));
  account.Force(MiB(3));
  EXPECT_EQ(account.private_bytes(), MiB(3));
  account.Release(MiB(3));
  EXPECT_EQ(account.private_bytes(), Bytes(0));
}

TEST_F(AccountsTest, MembersPayForALanesScratchOnceByTheLargestUse) {
  LaneAccount first(*device_, slot_), second(*device_, *device_->Claim("other"));
  first.Attach(LaneId(0));
  second.Attach(LaneId(0));
  ASSERT_TRUE(first.Reserve(MiB(4)).ok());
  ASSERT_TRUE(second.Reserve(MiB(2)).ok());
  EXPECT_EQ(device_->lane(LaneId(0)).scratch_bytes.load(), MiB(4).value());
  ASSERT_TRUE(second.Reserve(MiB(3)).ok());
  EXPECT_EQ(device_->lane(LaneId(0)).scratch_bytes.load(), MiB(5).value());
  device_->SetCapacity(MiB(6));
  EXPECT_TRUE(absl::IsResourceExhausted(first.Reserve(MiB(4))));
  EXPECT_EQ(first.own(), MiB(4));
}

}  // namespace
}  // namespace tide::runtime

// The memory file: what a joiner makes before it is needed, and what is given back.
#include "elastic/group.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "gtest/gtest.h"

namespace tide::elastic {
namespace {

constexpr size_t kFlat = 1 << 20;
constexpr size_t kState = 3 << 20;

class GroupTest : public ::testing::Test {
 protected:
  void SetUp() override {
    UniqueFd fd = *Group::Create({1, 4, 2});
    file_ = UniqueFd(dup(fd.get()));
    group_ = *Group::Attach(std::move(fd));
    Geometry geometry;
    geometry.workers = 4;
    geometry.parameters = 1;
    geometry.partials = 2;
    geometry.flat_bytes = kFlat;
    geometry.context_bytes = 64;
    ASSERT_TRUE(group_->Seal(geometry, "contract", absl::Seconds(10)).ok());
  }
  size_t Allocated() const {
    struct stat found;
    EXPECT_EQ(fstat(file_.get(), &found), 0);
    return static_cast<size_t>(found.st_blocks) * 512;
  }

  UniqueFd file_;
  std::unique_ptr<Group> group_;
};

TEST_F(GroupTest, AJoinerMakesItsBuffersAndTheRoomForTheState) {
  const size_t before = Allocated();
  group_->Prepare(1, 2);
  const size_t buffers = Allocated();
  EXPECT_GE(buffers, before + 2 * kFlat);
  EXPECT_LT(buffers, before + 2 * kFlat + kState) << "nobody has said how much it will receive";
  group_->header().state_expected.store(kState);
  group_->Prepare(1, 2);
  EXPECT_GE(Allocated(), buffers + kState);
  const size_t all = Allocated();
  auto state = *group_->MapState(kState - 100);
  std::memset(state.get(), 1, kState);
  EXPECT_EQ(Allocated(), all) << "nothing was left to be made";
  auto again = *group_->MapState(kState - 100);
  EXPECT_NE(again.get(), state.get()) << "what was prepared is given away once";
  EXPECT_EQ(again.get()[100], std::byte{1});
  group_->DropState();
  EXPECT_LE(Allocated(), all - kState);
}

TEST_F(GroupTest, MoreThanWasExpectedIsMapped) {
  group_->header().state_expected.store(kState);
  group_->Prepare(0, 1);
  auto state = *group_->MapState(2 * kState);
  std::memset(state.get(), 7, 2 * kState);
  auto same = *group_->MapState(2 * kState);
  EXPECT_EQ(std::memcmp(state.get(), same.get(), 2 * kState), 0);
}

}  // namespace
}  // namespace tide::elastic

// The lane's shared memory: found through members, left behind with a stuck holder, given back.
#include "lane/scratch.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <memory>
#include <optional>
#include <vector>

#include "cpp/lane/lane_workers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tide::lane {
namespace {

using testing::Announce;
using testing::Await;
using testing::Child;
using testing::Shared;

constexpr absl::Duration kGrace = absl::Milliseconds(200);

ino_t Inode(int fd) {
  struct stat info;
  return fstat(fd, &info) == 0 ? info.st_ino : 0;
}

// A member of lane 0 with its scratch, in this process.
struct Member {
  Member(shm::DeviceFile& device, Clock& clock)
      : self(*device.Claim("member")), turn(device, self, clock) {
    EXPECT_TRUE(turn.Join(LaneId(0)).ok());
    scratch.emplace(*Scratch::Attach(device, self, LaneId(0), MiB(16)));
  }
  SlotId self;
  Turn turn;
  std::optional<Scratch> scratch;
};

class ScratchTest : public ::testing::Test {
 protected:
  ScratchTest() : device_(*shm::DeviceFile::Open(temp_.path())) {}
  shm::LaneSlot& lane() { return device_->lane(LaneId(0)); }

  testing::TempDir temp_;
  SimulatedClock clock_{absl::UnixEpoch()};
  std::unique_ptr<shm::DeviceFile> device_;
};

TEST_F(ScratchTest, MembersMapTheSameFileAndNobodyCanShrinkIt) {
  Member a(*device_, clock_), b(*device_, clock_);
  EXPECT_EQ(Inode(a.scratch->fd()), Inode(b.scratch->fd()));
  EXPECT_EQ(a.scratch->generation(), b.scratch->generation());
  EXPECT_NE(ftruncate(b.scratch->fd(), 4096), 0);
  EXPECT_TRUE(b.scratch->Grow(MiB(32)).ok());
  struct stat info;
  ASSERT_EQ(fstat(a.scratch->fd(), &info), 0);
  EXPECT_EQ(info.st_size, MiB(32).value());
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(fcntl(a.scratch->fd(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  EXPECT_EQ(fcntl(b.scratch->fd(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}

TEST_F(ScratchTest, OnlyMembersAttach) {
  const SlotId self = *device_->Claim("stranger");
  EXPECT_TRUE(
      absl::IsFailedPrecondition(Scratch::Attach(*device_, self, LaneId(0), MiB(1)).status()));
}

TEST_F(ScratchTest, TheLastToLeaveGivesTheScratchBackAndTheNextStartsANewGeneration) {
  uint64_t generation = 0;
  {
    Member a(*device_, clock_), b(*device_, clock_);
    generation = a.scratch->generation();
    device_->SetCapacity(MiB(20));
    EXPECT_TRUE(a.scratch->Reserve(MiB(16)).ok());
    EXPECT_TRUE(absl::IsResourceExhausted(b.scratch->Reserve(MiB(8))));
    EXPECT_EQ(device_->Used(), MiB(16));
    a.scratch.reset();
    EXPECT_EQ(device_->Used(), MiB(16)) << "b still maps it";
  }
  EXPECT_EQ(device_->Used(), Bytes(0));
  Member c(*device_, clock_);
  EXPECT_GT(c.scratch->generation(), generation);
}

TEST_F(ScratchTest, AttachingAnewKeepsTheNewAttachmentPublished) {
  Member a(*device_, clock_), b(*device_, clock_);
  *a.scratch = *Scratch::Attach(*device_, a.self, LaneId(0), MiB(16));
  EXPECT_EQ(device_->slot(a.self).lane_fd.load(), a.scratch->fd());
  EXPECT_EQ(Inode(a.scratch->fd()), Inode(b.scratch->fd()));
}

TEST_F(ScratchTest, ASilentHolderIsLeftWithItsPagesAndTheyStayCharged) {
  Member slow(*device_, clock_), waiter(*device_, clock_), third(*device_, clock_);
  ASSERT_TRUE(slow.scratch->Reserve(MiB(8)).ok());
  ASSERT_TRUE(slow.turn.Acquire().ok());
  waiter.turn.SetReady(true);
  clock_.Advance(absl::Milliseconds(150));
  EXPECT_FALSE(*waiter.scratch->LeaveStuckHolder(waiter.turn, kGrace)) << "grace is not over";
  EXPECT_FALSE(*slow.scratch->LeaveStuckHolder(slow.turn, kGrace)) << "not from itself";
  clock_.Advance(absl::Milliseconds(150));
  device_->SetCapacity(MiB(15));
  const auto refused = waiter.scratch->LeaveStuckHolder(waiter.turn, kGrace);
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status()));
  EXPECT_EQ(device_->Used(), MiB(8));
  EXPECT_TRUE(slow.turn.Holds());
  device_->SetCapacity(MiB(16));
  ASSERT_TRUE(*waiter.scratch->LeaveStuckHolder(waiter.turn, kGrace));
  EXPECT_EQ(device_->Used(), MiB(16));
  EXPECT_EQ(lane().retired_bytes.load(), MiB(8).value());
  EXPECT_FALSE(slow.turn.Holds());
  EXPECT_TRUE(slow.scratch->Stale());
  EXPECT_TRUE(third.scratch->Stale());
  EXPECT_FALSE(waiter.scratch->Stale());
  EXPECT_NE(Inode(slow.scratch->fd()), Inode(waiter.scratch->fd()));
  EXPECT_FALSE(*third.scratch->LeaveStuckHolder(third.turn, kGrace)) << "another was faster";

  // What the stuck one commits meanwhile is charged to the pages that it maps.
  device_->SetCapacity(MiB(20));
  ASSERT_TRUE(slow.scratch->Reserve(MiB(2)).ok());
  EXPECT_EQ(lane().retired_bytes.load(), MiB(10).value());
  EXPECT_EQ(lane().scratch_bytes.load(), MiB(8).value());

  *third.scratch = *Scratch::Attach(*device_, third.self, LaneId(0), MiB(16));
  EXPECT_EQ(lane().retired_bytes.load(), MiB(10).value()) << "the slow one still maps it";
  EXPECT_EQ(Inode(third.scratch->fd()), Inode(waiter.scratch->fd()));
  *slow.scratch = *Scratch::Attach(*device_, slow.self, LaneId(0), MiB(16));
  EXPECT_EQ(lane().retired_bytes.load(), 0);
  EXPECT_EQ(device_->Used(), MiB(8));
}

struct StuckBoard {
  LaneBoard lane;
  std::atomic<bool> hold{false};    // worker 0 stays inside its next iteration
  std::atomic<bool> inside{false};  // and is there now
  std::atomic<int> reattached[3];
  std::atomic<int> torn{0};
};

// One iteration on shared pages: writes them all, reads them back.
void WritePages(StuckBoard& board, int number, const Scratch& scratch) {
  const size_t bytes = 64 << 10;
  void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, scratch.fd(), 0);
  auto* words = static_cast<std::atomic<int>*>(pages);
  for (size_t i = 0; i < bytes / sizeof(int); i += 64) words[i].store(number);
  if (number == 0 && board.hold.load()) {
    board.inside.store(true);
    Announce(board.lane.news);
    Await(board.lane.news, [&] { return !board.hold.load(); });
  }
  for (size_t i = 0; i < bytes / sizeof(int); i += 64) {
    if (words[i].load() != number) board.torn.fetch_add(1);
  }
  munmap(pages, bytes);
}

int RunScratchWorker(const std::string& dir, StuckBoard& board, int number) {
  auto device = shm::DeviceFile::Open(dir);
  const SlotId self = *(*device)->Claim("worker");
  Turn turn(**device, self, RealClock());
  if (!turn.Join(LaneId(0)).ok()) return 1;
  auto scratch = Scratch::Attach(**device, self, LaneId(0), MiB(2));
  if (!scratch.ok()) return 2;
  board.lane.slots[number].store(self.value());
  board.lane.joined.fetch_add(1);
  Announce(board.lane.news);
  const WaitHooks hooks{.on_wake = [&] { (void)scratch->LeaveStuckHolder(turn, kGrace).ok(); },
                        .cancelled = [&] { return board.lane.stop.load(); }};
  while (!board.lane.stop.load()) {
    if (!turn.Acquire(hooks).ok()) break;
    if (scratch->Stale()) {
      auto again = Scratch::Attach(**device, self, LaneId(0), MiB(2));
      if (!again.ok()) return 3;
      *scratch = *std::move(again);
      board.reattached[number].fetch_add(1);
    }
    WritePages(board, number, *scratch);
    board.lane.iterations[number].fetch_add(1);
    Announce(board.lane.news);
    turn.RecordIteration(absl::Microseconds(10));
    turn.Release(true);
  }
  return 0;
}

TEST_F(ScratchTest, AStoppedHolderKeepsItsPagesTheOthersMoveOnAndItFollowsWhenItContinues) {
  Shared<StuckBoard> board;
  std::vector<Child> children;
  for (int number = 0; number < 3; ++number) {
    children.emplace_back([&, number] { return RunScratchWorker(temp_.path(), *board, number); });
  }
  const auto counts = [&](int number) { return board->lane.iterations[number].load(); };
  std::atomic<uint32_t>& news = board->lane.news;
  ASSERT_TRUE(Await(news, [&] { return counts(0) > 5 && counts(1) > 5 && counts(2) > 5; }));
  for (int round = 1; round <= 2; ++round) {
    board->inside.store(false);
    board->hold.store(true);
    ASSERT_TRUE(Await(news, [&] { return board->inside.load(); }));
    children[0].Signal(SIGSTOP);
    children[0].AwaitStopped();
    const int stopped_at = counts(0), one = counts(1), two = counts(2);
    ASSERT_TRUE(Await(news, [&] { return counts(1) > one + 50 && counts(2) > two + 50; }));
    EXPECT_EQ(counts(0), stopped_at);
    board->hold.store(false);
    children[0].Signal(SIGCONT);
    ASSERT_TRUE(Await(news, [&] { return counts(0) > stopped_at + 50; }));
    EXPECT_GE(board->reattached[0].load(), round);
  }
  ASSERT_TRUE(Await(news, [&] { return lane().retired_bytes.load() == 0; }));
  board->lane.stop.store(true);
  for (Child& child : children) EXPECT_EQ(child.Wait(), 0);
  EXPECT_EQ(board->torn.load(), 0) << "two were on the same pages at once";
}

TEST_F(ScratchTest, TheScratchOfMembersThatWereKilledIsGivenBack) {
  Shared<StuckBoard> board;
  device_->SetCapacity(MiB(100));
  Child child([&] {
    const SlotId self = *device_->Claim("worker");
    Turn turn(*device_, self, RealClock());
    if (!turn.Join(LaneId(0)).ok()) return 1;
    auto scratch = Scratch::Attach(*device_, self, LaneId(0), MiB(2));
    if (!scratch->Reserve(MiB(60)).ok()) return 2;
    board->inside.store(true);
    Announce(board->lane.news);
    return pause();
  });
  ASSERT_TRUE(Await(board->lane.news, [&] { return board->inside.load(); }));
  EXPECT_EQ(device_->Used(), MiB(60));
  child.Signal(SIGKILL);
  child.AwaitZombie();
  EXPECT_EQ(device_->ReapDead(), 1);
  EXPECT_EQ(device_->Used(), Bytes(0));
}

}  // namespace
}  // namespace tide::lane

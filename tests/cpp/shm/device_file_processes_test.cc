// The device table among processes: claims, deaths and reservations that race.
#include <poll.h>
#include <string.h>

#include <set>
#include <vector>

#include "base/random.h"
#include "cpp/shm/child_process.h"
#include "shm/device_file.h"
#include "shm/process.h"

namespace tide::shm {
namespace {

using testing::Announce;
using testing::Await;
using testing::Child;
using testing::Shared;
using testing::TempDir;

struct Board {
  std::atomic<uint32_t> news{0};
  std::atomic<int> slots[64];
  std::atomic<int> claimed{0};
  std::atomic<int64_t> confirmed{0};
  std::atomic<int> violations{0};
  std::atomic<int> successes{0};
  std::atomic<int> refusals{0};
};

TEST(DeviceFileProcessesTest, SixtyFourProcessesClaimSixtyFourSlotsAndTheDeadOnesAreReaped) {
  TempDir temp;
  Shared<Board> board;
  std::vector<Child> children;
  for (int i = 0; i < 64; ++i) {
    children.emplace_back([&, i] {
      auto device = DeviceFile::Open(temp.path());  // all race to create the table, too
      if (!device.ok()) return 1;
      const auto slot = (*device)->Claim("claimer");
      if (!slot.ok()) return 2;
      if (!(*device)->Reserve(*slot, &JobSlot::private_bytes, MiB(1)).ok()) return 3;
      board->slots[i].store(slot->value());
      board->claimed.fetch_add(1);
      Announce(board->news);
      return pause();
    });
  }
  ASSERT_TRUE(Await(board->news, [&] { return board->claimed.load() == 64; }));
  std::set<int> distinct;
  for (const auto& slot : board->slots) distinct.insert(slot.load());
  EXPECT_EQ(distinct.size(), 64u);

  auto device = DeviceFile::Open(temp.path());
  ASSERT_TRUE(device.ok());
  EXPECT_EQ((*device)->Used(), MiB(64));
  EXPECT_EQ((*device)->ReapDead(), 0);
  for (int i = 0; i < 40; ++i) {
    children[i].Signal(SIGKILL);
    children[i].AwaitZombie();
  }
  EXPECT_EQ((*device)->ReapDead(), 40);
  EXPECT_EQ((*device)->Used(), MiB(24));
  EXPECT_EQ((*device)->WhoHoldsWhat().size(), 24u);
}

TEST(DeviceFileProcessesTest, AClaimTornByADeathIsReaped) {
  TempDir temp;
  auto device = DeviceFile::Open(temp.path());
  ASSERT_TRUE(device.ok());
  // Two ways to die in the middle: before and after the pid was written.
  for (const bool with_pid : {false, true}) {
    Child child([&] {
      JobSlot& slot = (*device)->table().slots[with_pid ? 1 : 0];
      slot.state.store(static_cast<uint32_t>(SlotState::kClaiming));
      if (with_pid) slot.pid.store(getpid());
      if (with_pid) slot.start_time.store(StartTime(getpid()));
      return 0;
    });
    child.AwaitZombie();
  }
  EXPECT_EQ((*device)->ReapDead(), 2);
  EXPECT_EQ(*(*device)->Claim("next"), SlotId(0));
}

TEST(DeviceFileProcessesTest, AReservationThatWouldFailFindsTheMemoryOfTheDead) {
  TempDir temp;
  auto device = DeviceFile::Open(temp.path());
  ASSERT_TRUE(device.ok());
  (*device)->SetCapacity(MiB(100));
  Child child([&] {
    const auto slot = (*device)->Claim("short-lived");
    return (*device)->Reserve(*slot, &JobSlot::private_bytes, MiB(90)).ok() ? 0 : 1;
  });
  child.AwaitZombie();
  const SlotId own = *(*device)->Claim("survivor");
  EXPECT_TRUE((*device)->Reserve(own, &JobSlot::private_bytes, MiB(90)).ok());
}

// A killed trainer leaves the workers of its loader behind, which hold its pages as they were
// forked.
TEST(DeviceFileProcessesTest, WhatChildrenOfADeadJobHoldStaysChargedUntilTheyEnd) {
  TempDir temp;
  auto device = DeviceFile::Open(temp.path());
  ASSERT_TRUE(device.ok());
  Shared<Board> board;
  Child job([&] {
    const auto slot = (*device)->Claim("trainer");
    (*device)->Reserve(*slot, &JobSlot::private_bytes, MiB(64)).IgnoreError();
    void* pages =
        mmap(nullptr, MiB(64).size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(pages, 1, MiB(64).size());
    const pid_t worker = fork();
    if (worker == 0) return pause();
    (*device)->slot(*slot).children[0].store(ChildWord::Make(worker, StartTime(worker)));
    board->slots[0].store(slot->value());
    board->slots[1].store(worker);
    board->claimed.fetch_add(1);
    Announce(board->news);
    return pause();
  });
  ASSERT_TRUE(Await(board->news, [&] { return board->claimed.load() == 1; }));
  const SlotId slot(board->slots[0].load());
  const pid_t worker = board->slots[1].load();
  auto watch = PidFd::Open(worker, StartTime(worker));
  ASSERT_TRUE(watch.ok());
  job.Signal(SIGKILL);
  job.AwaitZombie();
  EXPECT_EQ((*device)->ReapDead(), 0);
  EXPECT_EQ((*device)->slot(slot).private_bytes.load(), 0);
  EXPECT_GE((*device)->Held(), MiB(64)) << "the worker has the pages still";
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)  // whose memory counts too
  EXPECT_LE((*device)->Held(), MiB(80));
#endif
  ASSERT_EQ((*device)->WhoHoldsWhat().size(), 1u);
  EXPECT_EQ((*device)->WhoHoldsWhat()[0].name, "trainer (left behind)");
  kill(worker, SIGKILL);
  pollfd ended{.fd = watch->fd(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(poll(&ended, 1, 60'000), 1);
  EXPECT_EQ((*device)->ReapDead(), 1);
  EXPECT_EQ((*device)->Used(), Bytes(0));
}

// What is confirmed is a part of what is reserved: it may never be more than the capacity.
int ReserveAndGiveBack(DeviceFile& device, Board& board, uint64_t seed, int rounds) {
  const SlotId own = *device.Claim("stress");
  Random random(seed);
  const int64_t capacity = device.Capacity().value();
  for (int i = 0; i < rounds; ++i) {
    const Bytes bytes(static_cast<int64_t>(1 + random.Below(static_cast<uint64_t>(capacity))));
    if (!device.Reserve(own, &JobSlot::private_bytes, bytes).ok()) {
      board.refusals.fetch_add(1);
      continue;
    }
    board.successes.fetch_add(1);
    if (board.confirmed.fetch_add(bytes.value()) + bytes.value() > capacity) {
      board.violations.fetch_add(1);
    }
    board.confirmed.fetch_sub(bytes.value());
    if (!device.Reserve(own, &JobSlot::private_bytes, -bytes).ok()) return 1;
  }
  return 0;
}

TEST(DeviceFileProcessesTest, RacingReservationsNeverExceedTheCapacity) {
  TempDir temp;
  auto device = DeviceFile::Open(temp.path());
  ASSERT_TRUE(device.ok());
  (*device)->SetCapacity(Bytes(1000));
  Shared<Board> board;
  std::vector<Child> children;
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    children.emplace_back([&, seed] { return ReserveAndGiveBack(**device, *board, seed, 100000); });
  }
  for (Child& child : children) EXPECT_EQ(child.Wait(), 0);
  EXPECT_EQ(board->violations.load(), 0);
  EXPECT_GT(board->successes.load(), 10000);
  (*device)->ReapDead();
  EXPECT_EQ((*device)->Used(), Bytes(0));
}

TEST(DeviceFileProcessesTest, AKillAtAnyPointOfAReservationLeavesNoTornSum) {
  TempDir temp;
  auto device = DeviceFile::Open(temp.path());
  ASSERT_TRUE(device.ok());
  (*device)->SetCapacity(Bytes(1000));
  Shared<Board> board;
  Random random(21);
  for (int round = 0; round < 20; ++round) {
    const int before = board->successes.load();
    Child child([&] {
      return ReserveAndGiveBack(**device, *board, static_cast<uint64_t>(round), 1 << 30);
    });
    const int target = before + 1 + static_cast<int>(random.Below(50));
    ASSERT_TRUE(Await(board->news, [&] { return board->successes.load() >= target; }));
    child.Signal(SIGKILL);
    child.AwaitZombie();
    EXPECT_EQ((*device)->ReapDead(), 1);
    EXPECT_EQ((*device)->Used(), Bytes(0)) << "round " << round;
    board->confirmed.store(0);  // the test's own counter may be torn
  }
}

}  // namespace
}  // namespace tide::shm

// Turns among real processes: alternation, deaths, stops.
#include <signal.h>

#include <vector>

#include "cpp/lane/lane_workers.h"
#include "gtest/gtest.h"

namespace tide::lane {
namespace {

using testing::Announce;
using testing::Await;
using testing::Child;
using testing::Shared;

class LaneProcessesTest : public ::testing::Test {
 protected:
  LaneProcessesTest() : device_(*shm::DeviceFile::Open(temp_.path())) {}

  void Start(const WorkerPlan& plan) {
    board_->doomed[plan.number].store(false);
    const int joined = board_->joined.load();
    children_.emplace_back([this, plan] { return RunWorker(temp_.path(), *board_, plan); });
    ASSERT_TRUE(Await(board_->news, [&] { return board_->joined.load() > joined; }));
  }
  void Go() {
    board_->go.store(true);
    Announce(board_->news);
  }
  int Sum() const {
    int sum = 0;
    for (const auto& count : board_->iterations) sum += count.load();
    return sum;
  }
  // Until the lane as a whole has run `more` iterations from now.
  bool AwaitProgress(int more, absl::Duration deadline = testing::kDeadline) const {
    const int target = Sum() + more;
    return Await(
        board_->news, [&] { return Sum() >= target; }, deadline);
  }
  int HolderNumber() const {
    const int holder = shm::TurnWord::Holder(device_->lane(LaneId(0)).turn.load());
    for (int i = 0; i < 16; ++i) {
      if (board_->pids[i].load() != 0 && board_->slots[i].load() == holder) return i;
    }
    return -1;
  }

  testing::TempDir temp_;
  std::unique_ptr<shm::DeviceFile> device_;
  Shared<LaneBoard> board_;
  std::vector<Child> children_;
};

class LanePolicyTest : public LaneProcessesTest,
                       public ::testing::WithParamInterface<sched::TurnPolicyId> {};

TEST_P(LanePolicyTest, FourProcessesTakeTurnsAloneAndAllFinish) {
  constexpr int kIterations = 1000;
  for (int number = 0; number < 4; ++number) {
    WorkerPlan plan{.number = number, .iterations = kIterations};
    plan.priority = static_cast<sched::Priority>(number % 3);
    plan.continuing = number != 3;  // one whose loader is slow
    plan.tick = absl::Seconds(40);  // a lost wake-up would stop the test
    Start(plan);
  }
  device_->lane(LaneId(0)).policy.store(static_cast<uint32_t>(GetParam()));
  const int64_t start_ns = RealClock().MonotonicNanos();
  Go();
  for (Child& child : children_) EXPECT_EQ(child.Wait(), 0);
  EXPECT_LT(RealClock().MonotonicNanos() - start_ns, 40'000'000'000) << "a wake-up was lost";
  EXPECT_EQ(board_->violations.load(), 0);
  for (int number = 0; number < 4; ++number) {
    EXPECT_EQ(board_->iterations[number].load(), kIterations) << number;
  }
  EXPECT_EQ(device_->Used(), Bytes(0));
}

INSTANTIATE_TEST_SUITE_P(EveryPolicy, LanePolicyTest,
                         ::testing::Values(sched::TurnPolicyId::kFair, sched::TurnPolicyId::kFifo,
                                           sched::TurnPolicyId::kRr, sched::TurnPolicyId::kSrtf,
                                           sched::TurnPolicyId::kPack,
                                           sched::TurnPolicyId::kPriority),
                         [](const auto& info) { return sched::TurnPolicyName(info.param); });

TEST_F(LaneProcessesTest, AKilledHoldersTurnPassesWithinASecond) {
  constexpr uint64_t kSeed = 31;
  Random random(kSeed);
  SCOPED_TRACE(kSeed);
  for (int number = 0; number < 3; ++number) Start({.number = number});
  Go();
  for (int round = 0; round < 10; ++round) {
    ASSERT_TRUE(AwaitProgress(1 + static_cast<int>(random.Below(300))));
    int victim = HolderNumber();
    while (victim < 0) victim = HolderNumber();  // between two holders for an instant
    board_->doomed[victim].store(true);
    kill(board_->pids[victim].load(), SIGKILL);
    const int64_t start = RealClock().MonotonicNanos();
    ASSERT_TRUE(AwaitProgress(100)) << "round " << round;
    // 100 ms until a waiter looks, a hundred turns, and room for a loaded machine.
    EXPECT_LT(RealClock().MonotonicNanos() - start, 1'000'000'000) << "round " << round;
    Start({.number = victim});
  }
  EXPECT_EQ(board_->violations.load(), 0);
  EXPECT_EQ(device_->WhoHoldsWhat().size(), 3u) << "the dead were reaped";
}

TEST_F(LaneProcessesTest, AKilledWaiterIsFoundWhenTheTurnComesToIt) {
  for (int number = 0; number < 3; ++number) Start({.number = number});
  device_->lane(LaneId(0)).policy.store(static_cast<uint32_t>(sched::TurnPolicyId::kRr));
  board_->doomed[1].store(true);
  children_[1].Signal(SIGKILL);
  children_[1].AwaitZombie();
  device_->slot(SlotId(board_->slots[1].load())).flags.fetch_or(shm::kReady);
  Go();
  EXPECT_TRUE(AwaitProgress(200));
  EXPECT_EQ(board_->violations.load(), 0);
}

TEST_F(LaneProcessesTest, AWaiterThatIsStoppedIsPassedOverAndTakesItsTurnsAgainLater) {
  for (int number = 0; number < 3; ++number) Start({.number = number});
  device_->lane(LaneId(0)).policy.store(static_cast<uint32_t>(sched::TurnPolicyId::kRr));
  // Stopped before it ever asks, but counted as ready: the turn will be offered to it.
  children_[1].Signal(SIGSTOP);
  children_[1].AwaitStopped();
  device_->slot(SlotId(board_->slots[1].load())).flags.fetch_or(shm::kReady);
  Go();
  ASSERT_TRUE(AwaitProgress(500));
  EXPECT_EQ(board_->iterations[1].load(), 0);
  children_[1].Signal(SIGCONT);
  EXPECT_TRUE(Await(board_->news, [&] { return board_->iterations[1].load() > 100; }));
  EXPECT_EQ(board_->violations.load(), 0);
}

TEST_F(LaneProcessesTest, WaitersAnswerAStopAtOnce) {
  Start({.number = 0});
  auto own = (*device_).Claim("test");
  Turn turn(*device_, *own, RealClock());
  ASSERT_TRUE(turn.Join(LaneId(0)).ok());
  ASSERT_TRUE(turn.Acquire().ok());
  Go();
  board_->stop.store(true);
  device_->Wake(SlotId(board_->slots[0].load()));
  EXPECT_EQ(children_[0].Wait(), 0);
  EXPECT_EQ(Sum(), 0);
}

}  // namespace
}  // namespace tide::lane

// A member's view of its lane, several members in one process and in simulated time.
#include "lane/turn.h"

#include <signal.h>

#include <memory>
#include <thread>
#include <vector>

#include "base/options.h"
#include "base/random.h"
#include "cpp/lane/lane_workers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tide::lane {
namespace {

using shm::TurnWord;

class TurnTest : public ::testing::Test {
 protected:
  TurnTest() : device_(*shm::DeviceFile::Open(temp_.path())) {}
  ~TurnTest() override { turns_.clear(); }

  // A member of lane 0 with a slot of its own.
  Turn& Member(double weight = 1.0, sched::Priority priority = sched::Priority::kNormal) {
    turns_.push_back(std::make_unique<Turn>(*device_, *device_->Claim("member"), clock_));
    EXPECT_TRUE(turns_.back()->Join(LaneId(0), weight, priority).ok());
    clock_.Advance(absl::Milliseconds(1));
    return *turns_.back();
  }
  void SetPolicy(sched::TurnPolicyId policy) {
    device_->lane(LaneId(0)).policy.store(static_cast<uint32_t>(policy));
  }
  int Holder() { return TurnWord::Holder(device_->lane(LaneId(0)).turn.load()); }
  void Iterate(Turn& turn, absl::Duration took, bool continuing = true) {
    ASSERT_TRUE(turn.Acquire().ok());
    clock_.Advance(took);
    turn.RecordIteration(took);
    turn.Release(continuing);
  }

  testing::TempDir temp_;
  SimulatedClock clock_{absl::UnixEpoch()};
  std::unique_ptr<shm::DeviceFile> device_;
  std::vector<std::unique_ptr<Turn>> turns_;
};

TEST_F(TurnTest, WithoutALaneThereIsNothingToAcquire) {
  Turn turn(*device_, *device_->Claim("member"), clock_);
  EXPECT_TRUE(absl::IsFailedPrecondition(turn.Acquire()));
  EXPECT_FALSE(turn.Holds());
  turn.Release(true);
  turn.Leave();
}

TEST_F(TurnTest, RefusesLanesAndWeightsThatDoNotExist) {
  Turn turn(*device_, *device_->Claim("member"), clock_);
  EXPECT_TRUE(absl::IsInvalidArgument(turn.Join(LaneId(-1))));
  EXPECT_TRUE(absl::IsInvalidArgument(turn.Join(LaneId(shm::kScratchCount))));
  for (const double weight : {0.0, -1.0, 1e9, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_TRUE(absl::IsInvalidArgument(turn.Join(LaneId(0), weight))) << weight;
  }
}

TEST_F(TurnTest, AloneAMemberKeepsTheTurnAndPassesNothing) {
  Turn& turn = Member();
  for (int i = 0; i < 5; ++i) Iterate(turn, absl::Milliseconds(1));
  EXPECT_FALSE(turn.Holds()) << "between iterations it is offered, not taken";
  EXPECT_EQ(Holder(), turn.self().value());
  EXPECT_EQ(device_->slot(turn.self()).service_ns.load(), 5'000'000);
  EXPECT_EQ(device_->slot(turn.self()).iterations.load(), 5);
}

TEST_F(TurnTest, TimeInWhichTheHolderStoodStillForOthersIsNoService) {
  Turn& turn = Member();
  ASSERT_TRUE(turn.Acquire().ok());
  clock_.Advance(absl::Milliseconds(9));
  turn.Excuse(absl::Milliseconds(7));
  turn.Release(true);
  EXPECT_EQ(device_->slot(turn.self()).service_ns.load(), 2'000'000);
  EXPECT_EQ(device_->slot(turn.self()).virtual_ns.load(), 2'000'000);
}

TEST_F(TurnTest, TheTurnOfOneThatDoesNotContinueBelongsToNobodyAndTheFirstComerTakesIt) {
  Turn& a = Member();
  Turn& b = Member();
  Iterate(a, absl::Milliseconds(1), /*continuing=*/false);
  EXPECT_EQ(Holder(), -1);
  ASSERT_TRUE(b.Acquire().ok());
  EXPECT_TRUE(b.Holds());
  EXPECT_FALSE(a.Holds());
  EXPECT_TRUE(b.Acquire().ok()) << "held already: at once";
}

TEST_F(TurnTest, EpochsGrowWithEachTurn) {
  Turn& a = Member();
  uint64_t last = 0;
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(a.Acquire().ok());
    EXPECT_GT(a.epoch(), last);
    last = a.epoch();
    a.Release(true);
  }
}

TEST_F(TurnTest, FairSharesFollowWeightsAndAWeightChangeDoesNotReachBack) {
  Turn& light = Member(1.0);
  Turn& heavy = Member(3.0);
  light.SetReady(true);
  heavy.SetReady(true);
  const auto run = [&](int turns) {
    for (int i = 0; i < turns; ++i) {
      ASSERT_TRUE(Holder() >= 0 || light.Acquire().ok());
      Iterate(Holder() == light.self().value() ? light : heavy, absl::Milliseconds(2));
    }
  };
  run(4000);
  const auto service = [&](Turn& turn) {
    return absl::Nanoseconds(device_->slot(turn.self()).service_ns.load());
  };
  EXPECT_NEAR(absl::FDivDuration(service(heavy), service(light)), 3.0, 0.05);
  const absl::Duration light_before = service(light), heavy_before = service(heavy);
  light.SetShare(3.0, sched::Priority::kNormal);
  run(400);
  EXPECT_NEAR(absl::FDivDuration(service(heavy) - heavy_before, service(light) - light_before), 1.0,
              0.05);
}

TEST_F(TurnTest, ANewcomerStartsAtTheLinesOfTheOthers) {
  Turn& old = Member();
  for (int i = 0; i < 100; ++i) Iterate(old, absl::Milliseconds(2));
  Turn& newcomer = Member();
  EXPECT_EQ(device_->slot(newcomer.self()).virtual_ns.load(), 200'000'000);
  EXPECT_EQ(device_->slot(newcomer.self()).rounds.load(), 100);
  EXPECT_EQ(device_->slot(newcomer.self()).iterations.load(), 0);
}

TEST_F(TurnTest, WhoWasAwayComesBackWithOneIterationOfCreditAndNotMore) {
  Turn& present = Member();
  Turn& away = Member();
  Iterate(away, absl::Milliseconds(2), /*continuing=*/false);
  for (int i = 0; i < 100; ++i) Iterate(present, absl::Milliseconds(2));
  away.SetReady(true);
  EXPECT_EQ(device_->slot(away.self()).virtual_ns.load(), 198'000'000);
  EXPECT_EQ(device_->slot(away.self()).rounds.load(), 99);
  away.SetReady(false);
  // The same when the other one happens to load its batch at that moment: its last turn started at
  // 200 ms.
  Iterate(present, absl::Milliseconds(2), /*continuing=*/false);
  away.SetReady(true);
  EXPECT_EQ(device_->slot(away.self()).virtual_ns.load(), 198'000'000);
}

TEST_F(TurnTest, ACancelledWaiterIsNotOfferedTheTurn) {
  Turn& a = Member();
  Turn& b = Member();
  ASSERT_TRUE(a.Acquire().ok());
  int asked = 0;
  EXPECT_TRUE(absl::IsCancelled(
      b.Acquire({.cancelled = [&] { return ++asked == 2; }, .tick = absl::Milliseconds(1)})));
  a.Release(false);
  EXPECT_EQ(Holder(), -1);
}

TEST_F(TurnTest, WithdrawingAnOfferPassesItOn) {
  Turn& a = Member();
  Turn& b = Member();
  b.SetReady(true);
  Iterate(a, absl::Milliseconds(1));
  ASSERT_EQ(Holder(), b.self().value());
  b.SetReady(false);
  EXPECT_EQ(Holder(), a.self().value());
  a.Leave();
  EXPECT_EQ(Holder(), -1);
}

TEST_F(TurnTest, WhoIsNextKnowsWhoHasTheTurnUntilItIsItsOwn) {
  Turn& holder = Member();
  Turn& later = Member(1.0, sched::Priority::kOpportunistic);
  Turn& next = Member();
  SetPolicy(sched::TurnPolicyId::kPriority);
  ASSERT_TRUE(holder.Acquire().ok());
  EXPECT_EQ(next.HolderBefore(), std::nullopt) << "it asks for no turn";
  later.SetReady(true);
  next.SetReady(true);
  EXPECT_EQ(next.HolderBefore(), holder.self());
  EXPECT_EQ(later.HolderBefore(), std::nullopt);
  EXPECT_EQ(holder.HolderBefore(), std::nullopt);
  EXPECT_TRUE(holder.Granted());
  EXPECT_FALSE(next.Granted());
  holder.Release(/*continuing=*/false);
  EXPECT_TRUE(next.Granted());
  EXPECT_EQ(next.HolderBefore(), std::nullopt);
  EXPECT_EQ(later.HolderBefore(), std::nullopt) << "it is not taken, and may pass at once";
  ASSERT_TRUE(next.Acquire().ok());
  EXPECT_EQ(later.HolderBefore(), next.self());
}

TEST_F(TurnTest, LeavingWhileHoldingPassesTheTurn) {
  Turn& a = Member();
  Turn& b = Member();
  ASSERT_TRUE(a.Acquire().ok());
  b.SetReady(true);
  a.Leave();
  EXPECT_EQ(Holder(), b.self().value());
  EXPECT_EQ(device_->slot(a.self()).lane.load(), -1);
}

TEST_F(TurnTest, AHolderThatWasPassedOverDoesNotThinkItHoldsAndPassesNothing) {
  Turn& slow = Member();
  Turn& other = Member();
  ASSERT_TRUE(slow.Acquire().ok());
  other.SetReady(true);
  uint64_t word = 0;
  clock_.Advance(absl::Seconds(9));
  EXPECT_EQ(other.HolderSilence(&word), absl::Seconds(9));
  EXPECT_EQ(slow.HolderSilence(), absl::ZeroDuration());
  ASSERT_TRUE(other.PassOver(word));
  EXPECT_FALSE(other.PassOver(word)) << "once";
  EXPECT_FALSE(slow.Holds());
  ASSERT_TRUE(other.Acquire().ok());
  slow.Release(true);
  EXPECT_TRUE(other.Holds()) << "the late release must not move the turn";
  other.Release(false);
  EXPECT_EQ(Holder(), slow.self().value()) << "it is ready again";
}

TEST_F(TurnTest, AnOfferThatIsNotTakenIsPassedOverByAWaiter) {
  Turn& asleep = Member();
  Turn& waiter = Member();
  asleep.SetReady(true);
  device_->lane(LaneId(0)).turn.store(TurnWord::Make(asleep.self().value(), 2));
  int ticks = 0;
  EXPECT_TRUE(waiter
                  .Acquire({.on_wake = [&] { clock_.Advance(absl::Milliseconds(++ticks * 100)); },
                            .tick = absl::Milliseconds(1)})
                  .ok());
  EXPECT_TRUE(waiter.Holds());
  EXPECT_EQ(device_->slot(asleep.self()).flags.load() & shm::kReady, 0u);
  waiter.Release(false);
  EXPECT_EQ(Holder(), -1);
  EXPECT_TRUE(asleep.Acquire().ok()) << "awake again, it asks again";
}

TEST_F(TurnTest, TheTurnOfASlotThatHasLeftTheLaneIsPassedOn) {
  Turn& waiter = Member();
  device_->lane(LaneId(0)).turn.store(
      TurnWord::Make(200, 5));  // freed while the turn was on its way
  EXPECT_TRUE(waiter.Acquire({.tick = absl::Milliseconds(1)}).ok());
}

TEST_F(TurnTest, TheFirstMemberSetsPolicyAndQuantumAndLaterOnesDoNot) {
  ASSERT_TRUE(SetOption("lane.policy", "rr", "call").ok());
  ASSERT_TRUE(SetOption("lane.quantum_ms", "7", "call").ok());
  Member();
  ASSERT_TRUE(SetOption("lane.policy", "srtf", "call").ok());
  Member();
  ASSERT_TRUE(SetOption("lane.policy", "fair", "call").ok());
  ASSERT_TRUE(SetOption("lane.quantum_ms", "0", "call").ok());
  EXPECT_EQ(device_->lane(LaneId(0)).policy.load(),
            static_cast<uint32_t>(sched::TurnPolicyId::kRr));
  EXPECT_EQ(device_->lane(LaneId(0)).quantum_ns.load(), 7'000'000);
}

TEST_F(TurnTest, AQuantumKeepsTheTurnWithItsHolder) {
  Turn& a = Member();
  Turn& b = Member();
  device_->lane(LaneId(0)).quantum_ns.store(10'000'000);
  b.SetReady(true);
  a.SetReady(true);
  ASSERT_TRUE(a.Acquire().ok());
  a.Release(true);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(Holder(), a.self().value()) << i;
    Iterate(a, absl::Milliseconds(3));
  }
  EXPECT_EQ(Holder(), b.self().value());
}

// Note [No lost turn] in turn.cc, race by race: a clock that the decision reads between its look at
// the ready flags and its exchange of the turn word lets another member act exactly there.
class InterposingClock final : public Clock {
 public:
  absl::Time Now() override { return absl::UnixEpoch(); }
  int64_t MonotonicNanos() override {
    if (when && when()) {
      when = nullptr;
      std::exchange(then, nullptr)();
    }
    return nanos_ += 1000;
  }
  std::function<bool()> when;
  std::function<void()> then;

 private:
  int64_t nanos_ = 0;
};

class TurnRaceTest : public TurnTest {
 protected:
  TurnRaceTest() : turn_(*device_, *device_->Claim("releaser"), interposing_) {
    EXPECT_TRUE(turn_.Join(LaneId(0)).ok());
    EXPECT_TRUE(turn_.Acquire().ok());
  }
  // Runs `act` after turn_ has withdrawn its own flag, that is inside its decision.
  void DuringTheDecision(std::function<void()> act) {
    interposing_.when = [this] {
      return (device_->slot(turn_.self()).flags.load() & shm::kReady) == 0;
    };
    interposing_.then = std::move(act);
  }
  InterposingClock interposing_;
  Turn turn_;
};

TEST_F(TurnRaceTest, WhoBecomesReadyWhileTheTurnGoesToNobodyIsFound) {
  Turn& late = Member();
  DuringTheDecision([&] { late.SetReady(true); });
  turn_.Release(false);
  EXPECT_EQ(Holder(), late.self().value());
}

TEST_F(TurnRaceTest, ATurnGivenToOneThatWithdrawsAtThatMomentGoesOn) {
  Turn& fickle = Member();
  Turn& patient = Member();
  fickle.SetReady(true);
  patient.SetReady(true);
  SetPolicy(sched::TurnPolicyId::kFifo);
  DuringTheDecision([&] { fickle.SetReady(false); });
  turn_.Release(false);
  EXPECT_EQ(Holder(), patient.self().value());
}

TEST_F(TurnRaceTest, ATurnThatArrivesBetweenTheLookAndTheSleepIsNotSleptThrough) {
  Turn& waiter = Member();
  const int64_t start_ns = RealClock().MonotonicNanos();
  bool released = false;
  const auto release_once = [&] {
    if (!std::exchange(released, true)) turn_.Release(false);
    return false;
  };
  ASSERT_TRUE(waiter.Acquire({.cancelled = release_once, .tick = absl::Seconds(30)}).ok());
  EXPECT_LT(RealClock().MonotonicNanos() - start_ns, 30'000'000'000);
}

TEST_F(TurnTest, AHolderInALongIterationIsNotPassedOver) {
  Turn& busy = Member();
  Turn& waiter = Member();
  ASSERT_TRUE(busy.Acquire().ok());
  int ticks = 0;
  EXPECT_TRUE(
      absl::IsCancelled(waiter.Acquire({.on_wake = [&] { clock_.Advance(absl::Seconds(1)); },
                                        .cancelled = [&] { return ++ticks > 10; },
                                        .tick = absl::Milliseconds(1)})));
  EXPECT_TRUE(busy.Holds());
}

// Members in threads that come, withdraw and leave at random, with a tick so long that a single
// lost wake-up or a turn given to somebody who does not run stops the test.
TEST_F(TurnTest, NoTurnIsLostWhenMembersWithdrawAtRandom) {
  constexpr int kMembers = 4, kIterations = 3000;
  for (int i = 0; i < kMembers; ++i) Member();
  LaneBoard board;
  const int64_t start_ns = RealClock().MonotonicNanos();
  std::vector<std::thread> threads;
  for (int number = 0; number < kMembers; ++number) {
    threads.emplace_back([&, number] {
      Turn& turn = *turns_[static_cast<size_t>(number)];
      Random random(static_cast<uint64_t>(100 + number));
      for (int i = 0; i < kIterations; ++i) {
        const bool impatient = random.Below(4) == 0;
        const absl::Status acquired =
            turn.Acquire({.cancelled = [&] { return impatient; }, .tick = absl::Seconds(40)});
        if (!acquired.ok()) continue;
        Enter(board, number);
        turn.RecordIteration(absl::Nanoseconds(1));
        Exit(board, number);
        turn.Release(random.Below(2) == 0);
        if (random.Below(8) == 0) turn.SetReady(random.Below(2) == 0);
      }
      turn.Leave();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(board.violations.load(), 0);
  EXPECT_LT(RealClock().MonotonicNanos() - start_ns, 40'000'000'000) << "a wake-up was lost";
}

}  // namespace
}  // namespace tide::lane

// A gang's protocol: nobody is held who runs, nobody waits for ever, and the dead are not waited
// for.
#include "lane/gang.h"

#include <signal.h>

#include <memory>
#include <thread>

#include "cpp/lane/lane_workers.h"
#include "gtest/gtest.h"
#include "shm/slot_table.h"

namespace tide::lane {
namespace {

using shm::GangState;
using testing::Announce;
using testing::Await;
using testing::Child;
using testing::Shared;

constexpr uint64_t kKey = 7;
constexpr absl::Duration kShort = absl::Milliseconds(30);
constexpr absl::Duration kLong = absl::Seconds(50);

class GangTest : public ::testing::Test {
 protected:
  GangTest() : device_(*shm::DeviceFile::Open(temp_.path())) {}

  std::unique_ptr<Gang> Rank(int rank, int size = 2, uint64_t key = kKey, int64_t meet = -1) {
    const SlotId self = *device_->Claim("rank");
    slots_[rank] = self;
    return std::make_unique<Gang>(*device_, self, RealClock(), GangPlace{key, rank, size}, meet);
  }
  GangState State(int rank) {
    return static_cast<GangState>(device_->slot(slots_[rank]).gang_state.load());
  }
  // The leader's boundaries before `step` and the next, with a follower that follows.
  Gang::Closing CloseWith(Gang& leader, Gang& follower, int64_t step) {
    EXPECT_EQ(*leader.Close(step, kLong, {}), Gang::Closing::kOpen) << "said, not done yet";
    std::thread parked([&] { EXPECT_TRUE(follower.Follow(step + 1, kLong, {}).ok()); });
    const auto closing = leader.Close(step + 1, kLong, {});
    EXPECT_EQ(State(1), GangState::kHeld);
    leader.Open(step + 1, /*again=*/false);
    parked.join();
    return *closing;
  }

  testing::TempDir temp_;
  std::unique_ptr<shm::DeviceFile> device_;
  SlotId slots_[4];
};

TEST_F(GangTest, FollowersAreHeldWhileTheGangHasNoTurnAndRunOnTheirSeatsAfterIt) {
  auto leader = Rank(0), follower = Rank(1);
  EXPECT_EQ(follower->lane(), LaneId());
  EXPECT_EQ(CloseWith(*leader, *follower, 5), Gang::Closing::kClosed);
  EXPECT_EQ(State(1), GangState::kIn);
  EXPECT_EQ(follower->lane(), LaneId()) << "its leader is in no lane";
  device_->slot(slots_[0]).lane.store(3);
  EXPECT_EQ(follower->lane(), LaneId(3));
  EXPECT_TRUE(follower->Follow(6, kShort, {}).ok()) << "nothing was said for this step";
}

TEST_F(GangTest, RanksThatBeginTogetherMeetBeforeTheirFirstStepWhoeverComesFirst) {
  for (const bool leader_first : {true, false}) {
    std::unique_ptr<Gang> leader, follower;
    if (leader_first) leader = Rank(0, 2, kKey, /*meet=*/7);
    follower = Rank(1, 2, kKey, 7);
    std::thread parked([&] { EXPECT_TRUE(follower->Follow(7, kLong, {}).ok()); });
    if (!leader_first) leader = Rank(0, 2, kKey, 7);
    EXPECT_EQ(*leader->Close(7, kLong, {}), Gang::Closing::kClosed);
    EXPECT_EQ(State(1), GangState::kHeld);
    leader->Open(7, /*again=*/false);
    parked.join();
    EXPECT_EQ(State(1), GangState::kIn);
    EXPECT_FALSE(leader->meets() || follower->meets());
  }
}

TEST_F(GangTest, WhereARankDoesNotComeToTheMeetingTheGangFormsLater) {
  auto leader = Rank(0, 2, kKey, 0);
  EXPECT_EQ(*leader->Close(0, kShort, {}), Gang::Closing::kOpen);
  EXPECT_FALSE(leader->closing());
  auto follower = Rank(1, 2, kKey, 0);
  EXPECT_TRUE(follower->Follow(0, kLong, {}).ok()) << "it is late and goes on";
  EXPECT_EQ(State(1), GangState::kApart);
  EXPECT_EQ(CloseWith(*leader, *follower, 1), Gang::Closing::kClosed) << "at once: none was vain";
}

TEST_F(GangTest, AFollowerWhoseLeaderNeverComesToTheMeetingGoesOn) {
  auto follower = Rank(1, 2, kKey, 0);
  EXPECT_TRUE(follower->Follow(0, kShort, {}).ok());
  EXPECT_EQ(State(1), GangState::kApart);
  bool stop = false;
  auto twin = Rank(2, 3, kKey, 0);
  const WaitHooks hooks{.on_wake = [&] { stop = true; }, .cancelled = [&] { return stop; }};
  EXPECT_TRUE(absl::IsCancelled(twin->Follow(0, kLong, hooks)));
}

TEST_F(GangTest, AFollowerRunsOnUpToTheStepThatWasSaid) {
  auto leader = Rank(0), follower = Rank(1);
  ASSERT_EQ(*leader->Close(5, kLong, {}), Gang::Closing::kOpen);
  EXPECT_TRUE(follower->Follow(5, kLong, {}).ok());
  EXPECT_EQ(State(1), GangState::kApart);
}

TEST_F(GangTest, AnIncompleteGangIsNotClosed) {
  auto leader = Rank(0, 3), follower = Rank(1, 3);
  for (int step = 0; step < 4; ++step) {
    EXPECT_EQ(*leader->Close(step, kShort, {}), Gang::Closing::kOpen);
    EXPECT_FALSE(leader->closing());
  }
  auto twin = Rank(1, 3);
  EXPECT_EQ(*leader->Close(4, kShort, {}), Gang::Closing::kOpen);
  EXPECT_FALSE(leader->closing()) << "three processes, but not three ranks";
}

TEST_F(GangTest, AGangOfOneIsClosedAtOnce) {
  auto leader = Rank(0, 1);
  EXPECT_EQ(*leader->Close(0, kShort, {}), Gang::Closing::kClosed);
}

TEST_F(GangTest, TheCloseIsTakenBackWhereAFollowerDoesNotCome) {
  auto leader = Rank(0), follower = Rank(1);
  ASSERT_EQ(*leader->Close(5, kLong, {}), Gang::Closing::kOpen);
  EXPECT_EQ(*leader->Close(6, kShort, {}), Gang::Closing::kOpen);
  EXPECT_FALSE(leader->closing());
  EXPECT_TRUE(follower->Follow(6, kLong, {}).ok()) << "comes late and goes on";
  EXPECT_EQ(State(1), GangState::kApart);
}

TEST_F(GangTest, ALeaderThatMakesNoStepsTakesTheCloseBack) {
  auto leader = Rank(0), follower = Rank(1);
  ASSERT_EQ(*leader->Close(5, absl::ZeroDuration(), {}), Gang::Closing::kOpen);
  ASSERT_TRUE(leader->closing());
  EXPECT_EQ(*leader->Close(5, absl::ZeroDuration(), {}), Gang::Closing::kOpen);
  EXPECT_FALSE(leader->closing());
}

TEST_F(GangTest, AParkedFollowerWhoseLeaderDoesNotComeGoesOn) {
  auto leader = Rank(0), follower = Rank(1);
  ASSERT_EQ(*leader->Close(5, kLong, {}), Gang::Closing::kOpen);
  EXPECT_TRUE(follower->Follow(6, kShort, {}).ok());
  EXPECT_EQ(State(1), GangState::kApart);
  EXPECT_TRUE(follower->Follow(7, kLong, {}).ok()) << "it waits for each close once";
  EXPECT_EQ(*leader->Close(6, kShort, {}), Gang::Closing::kOpen);
}

TEST_F(GangTest, AfterThreeClosesInVainTheTurnPassesWithoutTheFollowers) {
  auto leader = Rank(0), follower = Rank(1);
  ASSERT_EQ(CloseWith(*leader, *follower, 0), Gang::Closing::kClosed);
  int64_t step = 2, vain = 0;
  Gang::Closing closing = Gang::Closing::kOpen;
  for (; vain < 50'000'000 && closing == Gang::Closing::kOpen; ++vain, ++step) {
    closing = *leader->Close(step, absl::ZeroDuration(), {});
  }
  EXPECT_EQ(closing, Gang::Closing::kApart);
  // One that comes again brings the gang together again.
  while (!leader->closing()) leader->Close(step, kShort, {}).IgnoreError();
  std::thread parked([&] { EXPECT_TRUE(follower->Follow(step + 1, kLong, {}).ok()); });
  EXPECT_EQ(*leader->Close(step + 1, kLong, {}), Gang::Closing::kClosed);
  leader->Open(step + 1, false);
  parked.join();
}

TEST_F(GangTest, CancelledWhileItWaitsALeaderLetsTheOthersGoOn) {
  auto leader = Rank(0), follower = Rank(1);
  ASSERT_EQ(*leader->Close(5, kLong, {}), Gang::Closing::kOpen);
  const WaitHooks hooks{.cancelled = [] { return true; }};
  EXPECT_TRUE(absl::IsCancelled(leader->Close(6, kLong, hooks).status()));
  EXPECT_TRUE(follower->Follow(6, kLong, {}).ok());
  EXPECT_FALSE(leader->closing());
}

TEST_F(GangTest, CancelledWhileItIsHeldAFollowerIsApart) {
  auto leader = Rank(0), follower = Rank(1);
  ASSERT_EQ(*leader->Close(5, kLong, {}), Gang::Closing::kOpen);
  std::atomic<bool> stop{false};
  const WaitHooks hooks{.cancelled = [&] { return stop.load(); }};
  std::thread parked([&] { EXPECT_TRUE(absl::IsCancelled(follower->Follow(6, kLong, hooks))); });
  EXPECT_EQ(*leader->Close(6, kLong, {}), Gang::Closing::kClosed);
  stop.store(true);
  device_->Wake(slots_[1]);
  parked.join();
  EXPECT_EQ(State(1), GangState::kApart);
  leader->Open(6, false);
  EXPECT_EQ(State(1), GangState::kApart) << "it is not brought in by who has not held it";
}

TEST_F(GangTest, ALeaderThatLeavesLetsItsFollowersGo) {
  auto leader = Rank(0), follower = Rank(1);
  ASSERT_EQ(*leader->Close(5, kLong, {}), Gang::Closing::kOpen);
  std::thread parked([&] { EXPECT_TRUE(follower->Follow(6, kLong, {}).ok()); });
  EXPECT_EQ(*leader->Close(6, kLong, {}), Gang::Closing::kClosed);
  leader.reset();
  parked.join();
  EXPECT_EQ(State(1), GangState::kApart);
}

TEST_F(GangTest, AFollowerThatIsInHasTheTurnThatItsLeaderHolds) {
  auto leader = Rank(0), follower = Rank(1);
  Turn turn(*device_, slots_[0], RealClock()), seat(*device_, slots_[1], RealClock());
  ASSERT_TRUE(turn.Join(LaneId(2)).ok() && seat.Join(LaneId(shm::kLaneCount + 2)).ok());
  ASSERT_EQ(CloseWith(*leader, *follower, 0), Gang::Closing::kClosed);
  EXPECT_FALSE(shm::HasTurn(device_->table(), slots_[1].value())) << "nobody has it";
  ASSERT_TRUE(turn.Acquire().ok());
  EXPECT_TRUE(shm::HasTurn(device_->table(), slots_[0].value()));
  EXPECT_TRUE(shm::HasTurn(device_->table(), slots_[1].value()));
  leader->Dissolve();
  EXPECT_FALSE(shm::HasTurn(device_->table(), slots_[1].value()));
}

TEST_F(GangTest, OneSeatHasOneProcessAtATime) {
  auto a = Rank(1), b = Rank(2, 3, kKey + 1);
  const LaneId seat(shm::kLaneCount);
  Turn turn_a(*device_, slots_[1], RealClock()), turn_b(*device_, slots_[2], RealClock());
  ASSERT_TRUE(turn_a.Join(seat).ok() && turn_b.Join(seat).ok());
  EXPECT_TRUE(a->TakeSeat());
  EXPECT_FALSE(b->TakeSeat());
  EXPECT_TRUE(a->TakeSeat()) << "b does not stand in its way";
  a->LeaveSeat();
  EXPECT_TRUE(b->TakeSeat());
}

// What processes of a gang and the test tell each other.
struct GangBoard {
  std::atomic<uint32_t> news{0};
  std::atomic<int> ready{0};
  std::atomic<bool> done{false};
};

TEST_F(GangTest, AHeldFollowerWhoseLeaderIsKilledGoesOn) {
  Shared<GangBoard> board;
  auto follower = Rank(1);
  Child child([&] {
    auto device = *shm::DeviceFile::Open(temp_.path());
    Gang leader(*device, *device->Claim("leader"), RealClock(), {kKey, 0, 2});
    if (*leader.Close(5, kLong, {}) != Gang::Closing::kOpen) return 1;
    board->ready.store(1);
    Announce(board->news);
    if (*leader.Close(6, kLong, {}) != Gang::Closing::kClosed) return 2;
    raise(SIGKILL);
    return 0;
  });
  ASSERT_TRUE(Await(board->news, [&] { return board->ready.load() == 1; }));
  EXPECT_TRUE(follower->Follow(6, kLong, {.tick = absl::Milliseconds(5)}).ok());
  EXPECT_EQ(State(1), GangState::kApart);
  EXPECT_EQ(child.Wait(), -SIGKILL);
}

TEST_F(GangTest, AFollowerThatIsKilledIsNotWaitedFor) {
  Shared<GangBoard> board;
  auto leader = Rank(0);
  Child child([&] {
    auto device = *shm::DeviceFile::Open(temp_.path());
    Gang follower(*device, *device->Claim("follower"), RealClock(), {kKey, 1, 2});
    board->ready.store(1);
    Announce(board->news);
    return Await(board->news, [&] { return board->done.load(); }) ? 0 : 1;
  });
  ASSERT_TRUE(Await(board->news, [&] { return board->ready.load() == 1; }));
  ASSERT_EQ(*leader->Close(5, kLong, {}), Gang::Closing::kOpen);
  ASSERT_TRUE(leader->closing());
  child.Signal(SIGKILL);
  child.AwaitZombie();
  EXPECT_EQ(*leader->Close(6, kLong, {.tick = absl::Milliseconds(5)}), Gang::Closing::kClosed);
}

TEST_F(GangTest, ThousandsOfTurnsOfAGangOfThreeNeverHoldARunningFollower) {
  Shared<GangBoard> board;
  Shared<std::atomic<int64_t>> inside[2];
  constexpr int64_t kSteps = 3000;
  const auto follow = [&](int rank) {
    auto device = *shm::DeviceFile::Open(temp_.path());
    Gang gang(*device, *device->Claim("follower"), RealClock(), {kKey, rank, 3});
    board->ready.fetch_add(1);
    Announce(board->news);
    for (int64_t step = 0; step < kSteps; ++step) {
      if (!gang.Follow(step, kLong, {}).ok()) return 1;
      // The leader takes part in each step: a follower ends none before it.
      inside[rank - 1]->store(step + 1);
      Announce(board->news);
      const auto went = [&] { return board->ready.load() >= 3 + step || board->done.load(); };
      if (!Await(board->news, went)) return 2;
      inside[rank - 1]->store(-(step + 1));
    }
    return 0;
  };
  Child first([&] { return follow(1); }), second([&] { return follow(2); });
  ASSERT_TRUE(Await(board->news, [&] { return board->ready.load() == 2; }));
  auto leader = Rank(0, 3);
  int64_t closed = 0;
  for (int64_t step = 0; step < kSteps; ++step) {
    const auto closing = *leader->Close(step, kLong, {});
    if (closing == Gang::Closing::kClosed) {
      ++closed;
      EXPECT_LE(inside[0]->load(), 0) << "held in step " << step;
      EXPECT_LE(inside[1]->load(), 0) << "held in step " << step;
      leader->Open(step, /*again=*/step % 3 != 0);
    }
    board->ready.fetch_add(1);  // the collective of this step
    Announce(board->news);
    const auto there = [&] {
      return std::abs(inside[0]->load()) > step && std::abs(inside[1]->load()) > step;
    };
    ASSERT_TRUE(Await(board->news, there)) << step;
  }
  board->done.store(true);
  Announce(board->news);
  EXPECT_EQ(first.Wait(), 0);
  EXPECT_EQ(second.Wait(), 0);
  EXPECT_GT(closed, kSteps / 3);
}

// A leader that holds its follower, before it asks for the turn.
class StandingTest : public GangTest {
 protected:
  StandingTest() : leader_(Rank(0)), follower_(Rank(1)) {
    EXPECT_EQ(*leader_->Close(5, kLong, {}), Gang::Closing::kOpen);
    parked_ = std::thread([this] { EXPECT_TRUE(follower_->Follow(6, kLong, {}).ok()); });
    EXPECT_EQ(*leader_->Close(6, kLong, {}), Gang::Closing::kClosed);
  }
  ~StandingTest() override {
    leader_->Open(6, /*again=*/false);
    parked_.join();
  }
  std::unique_ptr<Gang> leader_, follower_;
  std::thread parked_;
};

TEST_F(StandingTest, AHeldFollowerMovesItsMemoryOnlyOnceTheLeaderStandsToo) {
  EXPECT_TRUE(leader_->closed() && follower_->closed());
  EXPECT_FALSE(leader_->Stands());
  EXPECT_FALSE(follower_->MayStand());
  follower_->SayStands(true);
  EXPECT_FALSE(follower_->MayStand()) << "the leader may be about to let it go";
  EXPECT_TRUE(leader_->SomebodyStands());
  EXPECT_TRUE(leader_->Stands());
  EXPECT_TRUE(follower_->MayStand());
  EXPECT_TRUE(leader_->Stands()) << "for as long as it does";
  follower_->SayStands(false);
  EXPECT_FALSE(leader_->Stands());
  follower_->SayStands(true);
  EXPECT_FALSE(follower_->MayStand()) << "the leader has been told that nobody stands";
  follower_->SayStands(false);
}

TEST_F(StandingTest, ALeaderThatStandsLetsFollowersStandAndLooksAtThemWhenItGoesOn) {
  leader_->SayStands(true);
  follower_->SayStands(true);
  EXPECT_TRUE(follower_->MayStand());
  EXPECT_TRUE(leader_->Stands()) << "it goes on, and the follower does not";
  follower_->SayStands(false);
  EXPECT_FALSE(leader_->Stands());
}

TEST_F(StandingTest, NobodyHasMovedItsMemoryWhenTheLeaderGoesOn) {
  constexpr int kTimes = 500;
  std::atomic<bool> moved{false}, over{false};
  std::atomic<int> moves{0};
  std::thread pausing([&] {
    while (!over.load()) {
      follower_->SayStands(true);
      while (!over.load() && !follower_->MayStand()) std::this_thread::yield();
      moved.store(true);
      moves.fetch_add(1);
      std::this_thread::yield();
      moved.store(false);
      follower_->SayStands(false);
    }
  });
  int opened = 0, violations = 0;
  const int64_t end_ns = RealClock().MonotonicNanos() + absl::ToInt64Nanoseconds(kLong);
  while ((opened < kTimes || moves.load() < kTimes) && RealClock().MonotonicNanos() < end_ns) {
    if (leader_->Stands() || leader_->SomebodyStands()) {
      std::this_thread::yield();
      continue;
    }
    // It lets them go here: who has not moved anything yet may not from now on.
    for (int look = 0; look < 3; ++look) {
      std::this_thread::yield();
      violations += moved.load() ? 1 : 0;
    }
    ++opened;
  }
  over.store(true);
  pausing.join();
  EXPECT_EQ(violations, 0);
  EXPECT_GE(opened, kTimes);
  EXPECT_GE(moves.load(), kTimes);
}

TEST_F(GangTest, AFollowerThatRunsOrIsApartMayNotStand) {
  auto leader = Rank(0), follower = Rank(1);
  follower->SayStands(true);
  leader->SayStands(true);
  EXPECT_TRUE(follower->apart());
  EXPECT_FALSE(follower->MayStand());
  EXPECT_EQ(CloseWith(*leader, *follower, 5), Gang::Closing::kClosed);
  EXPECT_FALSE(follower->apart());
  EXPECT_FALSE(follower->MayStand());
}

TEST_F(GangTest, WhoHasLeftDoesNotStandAnyMore) {
  auto leader = Rank(0), follower = Rank(1);
  follower->SayStands(true);
  EXPECT_TRUE(leader->Stands());
  follower.reset();
  EXPECT_FALSE(leader->Stands());
}

// Story: a pause came between the step for which all were to stop and that step. The leader went on
// without the close, and the followers waited for it until their patience was over.
TEST_F(GangTest, ACloseThatWasPassedOverHoldsNobody) {
  auto leader = Rank(0), follower = Rank(1);
  ASSERT_EQ(*leader->Close(5, kLong, {}), Gang::Closing::kOpen);
  ASSERT_TRUE(leader->closing());
  leader->Open(6, /*again=*/false);
  EXPECT_FALSE(leader->closing());
  EXPECT_TRUE(follower->Follow(6, kLong, {}).ok()) << "at once";
}

TEST_F(GangTest, AFollowerWhoseLeaderWaitsForTheTurnParksAndIsHeld) {
  auto leader = Rank(0), follower = Rank(1);
  ASSERT_EQ(CloseWith(*leader, *follower, 5), Gang::Closing::kClosed);
  device_->slot(slots_[0]).lane.store(3);  // a member that has no turn
  std::thread parked([&] { EXPECT_TRUE(follower->Follow(7, kLong, {}).ok()); });
  std::atomic<uint32_t>& told = device_->slot(slots_[0]).wake_word;
  EXPECT_TRUE(Await(told, [&] { return State(1) == GangState::kParked; }));
  EXPECT_FALSE(leader->closed());
  leader->HoldWhoWaits();
  EXPECT_TRUE(leader->closed());
  EXPECT_EQ(State(1), GangState::kHeld);
  leader->Open(7, /*again=*/false);
  parked.join();
  EXPECT_EQ(State(1), GangState::kIn);
}

TEST_F(GangTest, WhoParkedForALeaderWithoutTheTurnGoesOnWithItOrWithoutIt) {
  auto leader = Rank(0), follower = Rank(1);
  ASSERT_EQ(CloseWith(*leader, *follower, 5), Gang::Closing::kClosed);
  device_->slot(slots_[0]).lane.store(3);
  EXPECT_TRUE(follower->Follow(7, kShort, {}).ok()) << "after its patience";
  EXPECT_EQ(State(1), GangState::kIn);
  std::thread parked([&] { EXPECT_TRUE(follower->Follow(7, kLong, {}).ok()); });
  std::atomic<uint32_t>& told = device_->slot(slots_[0]).wake_word;
  EXPECT_TRUE(Await(told, [&] { return State(1) == GangState::kParked; }));
  leader->Open(7, /*again=*/false);
  parked.join();
  EXPECT_EQ(State(1), GangState::kIn);
}

}  // namespace
}  // namespace tide::lane

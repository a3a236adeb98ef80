// The arena: addresses and contents over every move, survivors of the lane, other threads, budgets
// and forks.
#include "arena/arena.h"

#include <thread>
#include <vector>

#include "cpp/arena/arena_fixture.h"
#include "cpp/shm/child_process.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tide::arena {
namespace {

using testing::Child;

// Fork handlers around fork as pthread_atfork calls them.
Child Fork(Arena& arena, const std::function<int()>& body) {
  arena.BeforeFork();
  Child child([&] {
    arena.AfterForkInChild();
    return body();
  });
  arena.AfterForkInParent();
  return child;
}

class ArenaTest : public ::testing::TestWithParam<bool> {
 protected:
  World world_{GetParam()};
  Arena& arena_ = *world_.arena;
};

INSTANTIATE_TEST_SUITE_P(Backends, ArenaTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Host" : "Fake"; });

TEST_P(ArenaTest, BlocksKeepAddressAndContentsOverDemotionAndPromotion) {
  std::vector<Patterned> blocks;
  for (int i = 0; i < 8; ++i)
    blocks.push_back(world_.Make(KiB(700 + 400 * i), static_cast<char>('a' + i)));
  const MoveReport out = arena_.Demote(PageCount(100));
  EXPECT_TRUE(out.status.ok());
  EXPECT_GT(out.moved, PageCount(5));
  EXPECT_EQ(arena_.Stats().committed_bytes, Bytes(0));
  for (const Patterned& block : blocks) EXPECT_TRUE(block.Intact());
  blocks[3].Fill('Z');
  EXPECT_EQ(arena_.Promote(PageCount(100)).moved, out.moved);
  for (const Patterned& block : blocks) EXPECT_TRUE(block.Intact());
  EXPECT_EQ(arena_.Stats().demoted_bytes, Bytes(0));
  for (Patterned& block : blocks) world_.Free(block);
  EXPECT_EQ(arena_.Stats().live_bytes, Bytes(0));
}

TEST_P(ArenaTest, SurvivorsLeaveTheLaneAtTheirAddressWithTheirContents) {
  world_.Teach(3, MiB(1));
  UniqueFd lane = LaneFile(MiB(256));
  ASSERT_TRUE(arena_.AttachLane(lane.get()).ok());
  arena_.BeginIteration(0, true);
  Patterned dies = world_.Make(MiB(1), 'd');
  Patterned survives = world_.Make(MiB(1), 's');
  EXPECT_EQ(arena_.Stats().lane_allocations, 2);
  world_.Free(dies);
  ASSERT_TRUE(arena_.EndIteration().ok());
  EXPECT_EQ(arena_.Stats().privatised_blocks, 1);
  EXPECT_TRUE(survives.Intact());
  survives.Fill('S');
  ASSERT_TRUE(arena_.DetachLane().ok());
  UniqueFd other = LaneFile(MiB(256));
  ASSERT_TRUE(arena_.AttachLane(other.get()).ok());
  EXPECT_TRUE(survives.Intact());
  world_.Free(survives);
  ASSERT_TRUE(arena_.DetachLane().ok());
}

// Two members of one lane, one after the other on the same pages.
void TakeTurns(bool skip_privatise, bool* survived) {
  World first(true, MiB(64), {.skip_privatise = skip_privatise}), second(true, MiB(64));
  first.Teach(1, MiB(1));
  second.Teach(1, MiB(1));
  UniqueFd lane = LaneFile(MiB(64));
  ASSERT_TRUE(first.arena->AttachLane(lane.get()).ok());
  ASSERT_TRUE(second.arena->AttachLane(lane.get()).ok());
  first.arena->BeginIteration(0, true);
  Patterned survivor = first.Make(MiB(1), 's');
  ASSERT_TRUE(first.arena->EndIteration().ok());
  second.arena->BeginIteration(0, true);
  Patterned scratch = second.Make(MiB(1), 'x');
  ASSERT_EQ(second.arena->Stats().lane_allocations, 1);
  *survived = survivor.Intact();
  second.Free(scratch);
  ASSERT_TRUE(second.arena->EndIteration().ok());
}

TEST(ArenaLaneTest, AnotherMembersIterationDoesNotReachASurvivor) {
  bool survived = false;
  TakeTurns(/*skip_privatise=*/false, &survived);
  EXPECT_TRUE(survived);
}

TEST(ArenaLaneTest, WithoutPrivatisingItWouldTheControl) {
  bool survived = true;
  TakeTurns(/*skip_privatise=*/true, &survived);
  EXPECT_FALSE(survived);
}

TEST_P(ArenaTest, BlocksOfOtherThreadsArePinned) {
  Patterned foreign;
  std::thread([&] { foreign = world_.Make(MiB(2), 'f'); }).join();
  Patterned own = world_.Make(MiB(2), 'o');
  EXPECT_EQ(arena_.Stats().pinned_bytes, MiB(2));
  EXPECT_EQ(arena_.Demote(PageCount(9)).moved, PageCount(1));
  EXPECT_EQ(arena_.Stats().demoted_bytes, MiB(2));
  EXPECT_TRUE(foreign.Intact() && own.Intact());
  world_.Free(foreign);
  EXPECT_EQ(arena_.Stats().pinned_bytes, Bytes(0));
}

TEST_P(ArenaTest, APageWithABlockOfAnotherThreadStaysDemotedAndOthersComeBack) {
  Patterned own = world_.Make(MiB(1), 'o');
  Patterned other = world_.Make(MiB(3), 'p');
  ASSERT_EQ(arena_.Demote(PageCount(2)).moved, PageCount(2));
  world_.Free(own);
  Patterned again = world_.Make(KiB(512), 'q');
  Patterned foreign;
  std::thread([&] { foreign = world_.Make(KiB(256), 'f'); }).join();
  const MoveReport back = arena_.Promote(PageCount(2));
  EXPECT_TRUE(back.status.ok()) << back.status;
  EXPECT_EQ(back.moved, PageCount(1));
  EXPECT_TRUE(other.Intact() && again.Intact() && foreign.Intact());
}

TEST_P(ArenaTest, OutOfBudgetABlockIsBornInTheFileTierAndForeignOnesAreRefused) {
  world_.account.set_limit(MiB(4));
  Patterned first = world_.Make(MiB(4), 'a');
  Patterned second = world_.Make(MiB(4), 'b');
  ASSERT_NE(second.at, nullptr);
  EXPECT_EQ(arena_.Stats().demoted_bytes, MiB(4));
  EXPECT_TRUE(first.Intact() && second.Intact());
  std::thread([&] {
    EXPECT_TRUE(absl::IsResourceExhausted(arena_.Allocate(MiB(2).size()).status()));
  }).join();
  world_.Free(second);
  EXPECT_EQ(world_.spill->used(), Bytes(0));
}

TEST_P(ArenaTest, OthersAreAskedBeforeTheFileTierAndAgainAsALastResort) {
  world_.account.set_limit(MiB(2));
  std::vector<bool> asked;
  world_.need = [&](Bytes bytes, bool last) {
    EXPECT_EQ(bytes, MiB(2));
    asked.push_back(last);
    return false;
  };
  ASSERT_NE(world_.Make(MiB(2), 'a').at, nullptr);
  EXPECT_TRUE(asked.empty());
  ASSERT_NE(world_.Make(MiB(2), 'b').at, nullptr);
  EXPECT_EQ(asked, std::vector<bool>{false});
  EXPECT_EQ(arena_.Stats().demoted_bytes, MiB(2));
  asked.clear();
  arena_.SetSpill(nullptr);
  EXPECT_EQ(arena_.Allocate(MiB(2).size()).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(asked, (std::vector<bool>{false, true}));
  arena_.SetSpill(world_.spill.get());
  asked.clear();
  world_.need = [&](Bytes, bool last) {
    asked.push_back(last);
    world_.account.set_limit(MiB(8));
    return true;
  };
  ASSERT_NE(world_.Make(MiB(2), 'c').at, nullptr);
  EXPECT_EQ(asked, std::vector<bool>{false});
  EXPECT_EQ(arena_.Stats().committed_bytes, MiB(4));
}

TEST_P(ArenaTest, EachFaultAtEachPositionOfAMoveLeavesContentsAndAValidArena) {
  std::vector<Patterned> blocks;
  for (int i = 0; i < 4; ++i) blocks.push_back(world_.Make(MiB(2), static_cast<char>('a' + i)));
  for (const char* point : {"pages.map", "pages.scratch", "pages.publish", "pages.spill_write",
                            "pages.spill_read", "pages.spill_grow"}) {
    for (int position = 0; position < 4; ++position) {
      ArmFault(point, absl::UnavailableError("armed"), position);
      arena_.Demote(PageCount(4));
      ASSERT_TRUE(arena_.Validate().ok()) << point << position;
      arena_.Promote(PageCount(4));
      ASSERT_TRUE(arena_.Validate().ok()) << point << position;
      DisarmFaults();
      for (const Patterned& block : blocks) ASSERT_TRUE(block.Intact()) << point << position;
      arena_.Promote(PageCount(4));
      ASSERT_EQ(arena_.Stats().demoted_bytes, Bytes(0)) << point << position;
    }
  }
}

TEST_P(ArenaTest, EachFaultAtEachPositionOfABoundaryKeepsSurvivorsAndCanBeTriedAgain) {
  world_.Teach(3, MiB(1));
  for (const char* point : {"pages.map", "pages.scratch", "pages.publish"}) {
    for (int position = 0; position < 3; ++position) {
      World world(GetParam(), MiB(32));
      world.Teach(3, MiB(1));
      UniqueFd lane = LaneFile(MiB(32));
      ASSERT_TRUE(world.arena->AttachLane(lane.get()).ok());
      world.arena->BeginIteration(0, true);
      std::vector<Patterned> blocks;
      for (int i = 0; i < 3; ++i) blocks.push_back(world.Make(MiB(1), static_cast<char>('a' + i)));
      ArmFault(point, absl::UnavailableError("armed"), position);
      const bool ended = world.arena->EndIteration().ok();
      const bool detached = ended && world.arena->DetachLane().ok();
      DisarmFaults();
      ASSERT_TRUE(world.arena->Validate().ok());
      for (const Patterned& block : blocks) ASSERT_TRUE(block.Intact()) << point << position;
      ASSERT_TRUE(world.arena->EndIteration().ok());
      if (!detached) {
        ASSERT_TRUE(world.arena->DetachLane().ok());
      }
      for (Patterned& block : blocks) {
        ASSERT_TRUE(block.Intact()) << point << position;
        world.Free(block);
      }
      ASSERT_TRUE(world.arena->Validate().ok());
    }
  }
}

class ArenaForkTest : public ::testing::Test {
 protected:
  ArenaForkTest() {
    world_.Teach(2, MiB(1));
    EXPECT_TRUE(arena_.AttachLane(lane_.get()).ok());
    demoted_ = world_.Make(MiB(2), 'd');
    EXPECT_EQ(arena_.Demote(PageCount(1)).moved, PageCount(1));
    private_ = world_.Make(MiB(2), 'p');
    arena_.BeginIteration(0, true);
    lane_block_ = world_.Make(MiB(1), 'l');
    EXPECT_EQ(arena_.Stats().lane_allocations, 1);
  }
  bool AllIntact() { return private_.Intact() && demoted_.Intact() && lane_block_.Intact(); }

  World world_{true};
  Arena& arena_ = *world_.arena;
  UniqueFd lane_ = LaneFile(MiB(256));
  Patterned private_, demoted_, lane_block_;
};

TEST_F(ArenaForkTest, AChildSeesAllBlocksAndItsWritesNeverReachTheParent) {
  Child child = Fork(arena_, [&] {
    if (!AllIntact()) return 1;
    private_.Fill('1');
    demoted_.Fill('2');
    lane_block_.Fill('3');
    return AllIntact() ? 0 : 2;
  });
  EXPECT_EQ(child.Wait(), 0);
  EXPECT_TRUE(AllIntact());
  EXPECT_TRUE(lane_block_.Holds('l'));
}

TEST_F(ArenaForkTest, AChildsFreesAndAllocationsAreHarmless) {
  Child child = Fork(arena_, [&] {
    world_.Free(private_);
    world_.Free(demoted_);
    world_.Free(lane_block_);
    return arena_.passes_through() ? 0 : 1;
  });
  EXPECT_EQ(child.Wait(), 0);
  EXPECT_TRUE(AllIntact());
  EXPECT_TRUE(arena_.Validate().ok());
}

TEST_F(ArenaForkTest, WhatTheParentDoesWithItsPagesLaterDoesNotReachTheChild) {
  int go[2];
  ASSERT_EQ(pipe(go), 0);
  Child child = Fork(arena_, [&] {
    char byte;
    if (read(go[0], &byte, 1) != 1) return 3;
    return AllIntact() ? 0 : 1;
  });
  private_.Fill('x');
  lane_block_.Fill('y');
  EXPECT_EQ(arena_.Promote(PageCount(1)).moved, PageCount(1));
  demoted_.Fill('z');
  Patterned next = world_.Make(MiB(4), 'n');
  EXPECT_EQ(arena_.Demote(PageCount(2)).moved, PageCount(2));
  EXPECT_EQ(write(go[1], "!", 1), 1);
  EXPECT_EQ(child.Wait(), 0);
  EXPECT_TRUE(AllIntact() && next.Intact());
}

// A log thread started a program while the step was running. Blocks of the lane were moved to
// private memory under the operators' hands, and counted as survivors, so that the lane was not
// used for them any more.
TEST_F(ArenaForkTest, AForkMovesNothingInTheParentAndTeachesItNothing) {
  Child child = Fork(arena_, [] { return 0; });
  EXPECT_EQ(child.Wait(), 0);
  EXPECT_EQ(arena_.Stats().privatised_blocks, 0);
  EXPECT_EQ(arena_.Stats().committed_bytes, world_.account.used());
  EXPECT_TRUE(lane_block_.Intact());
  world_.Free(lane_block_);
  ASSERT_TRUE(arena_.EndIteration().ok());
  arena_.BeginIteration(0, true);
  const int64_t before = arena_.Stats().lane_allocations;
  lane_block_ = world_.Make(MiB(1), 'm');
  EXPECT_EQ(arena_.Stats().lane_allocations, before + 1);
}

TEST_F(ArenaForkTest, ABlockThatCannotBeCopiedReadsAsZeroesInTheChildOnly) {
  ArmFault("pages.scratch", absl::UnavailableError("armed"));
  Child child = Fork(arena_, [&] { return lane_block_.Holds(0) ? 0 : 1; });
  DisarmFaults();
  EXPECT_EQ(child.Wait(), 0);
  EXPECT_TRUE(AllIntact());
}

}  // namespace
}  // namespace tide::arena

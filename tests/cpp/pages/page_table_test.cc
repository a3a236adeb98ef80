// The page table: who pays for what, contents over every move, and old state after every failure.
#include "pages/page_table.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "base/fault.h"
#include "cpp/pages/spill_folder.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pages/fake_backend.h"
#include "pages/host_backend.h"

namespace tide::pages {
namespace {

constexpr Bytes kSpace = MiB(64);

// Each test runs on the host and on the fake.
class PageTableTest : public ::testing::TestWithParam<bool> {
 protected:
  PageTableTest() {
    if (GetParam()) backend_ = MakeHostBackend(false);
    if (!GetParam()) backend_ = std::make_unique<FakeBackend>();
    base_ = *backend_->Reserve(kSpace);
    spill_ = *SpillFile::Open({.dir = folder_.path()});
    table_ = std::make_unique<PageTable>(*backend_, account_, base_, kSpace);
    table_->set_spill(spill_.get());
  }
  ~PageTableTest() override {
    DisarmFaults();
    EXPECT_TRUE(table_->Validate().ok()) << table_->Validate();
    EXPECT_EQ(account_.used(), table_->counts().committed.bytes());
    EXPECT_EQ(spill_->used(), table_->counts().file.bytes());
    backend_->Unreserve(base_, kSpace);
  }
  // Pages [first, first + count) as one block.
  absl::Status Occupy(int64_t first, int64_t count, bool pinned = false, bool may_spill = false) {
    return table_->Occupy(kPage * first, kPage * count, pinned, may_spill);
  }
  void Vacate(int64_t first, int64_t count, bool pinned = false) {
    table_->Vacate(kPage * first, kPage * count, pinned);
  }
  char* At(int64_t page) { return base_ + (kPage * page).value(); }
  void Fill(int64_t page, char value) { std::memset(At(page), value, kPage.size()); }
  bool All(int64_t page, char value) {
    return std::all_of(At(page), At(page) + kPage.size(), [=](char byte) { return byte == value; });
  }
  PageState State(int64_t page) { return table_->page(PageIndex(page)).state; }

  testing::SpillFolder folder_;
  CountingAccount account_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<SpillFile> spill_;
  std::unique_ptr<PageTable> table_;
  char* base_ = nullptr;
};

INSTANTIATE_TEST_SUITE_P(Backends, PageTableTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Host" : "Fake"; });

TEST_P(PageTableTest, PagesArePaidForOnceHoweverManyBlocksShareThem) {
  ASSERT_TRUE(table_->Occupy(Bytes(0), MiB(1), false, false).ok());
  ASSERT_TRUE(table_->Occupy(MiB(1), MiB(2), false, false).ok());
  EXPECT_EQ(account_.used(), kPage * 2);
  table_->Vacate(Bytes(0), MiB(1), false);
  EXPECT_EQ(table_->counts().cached, PageCount(0)) << "the second block still lives on page 0";
  table_->Vacate(MiB(1), MiB(2), false);
  EXPECT_EQ(table_->counts().cached, PageCount(2));
  EXPECT_EQ(account_.used(), kPage * 2) << "cached pages stay paid for";
}

TEST_P(PageTableTest, TrimGivesHighestCachedPagesBackAndKeepsAsManyAsAsked) {
  ASSERT_TRUE(Occupy(0, 6).ok());
  Fill(5, 'x');
  Vacate(2, 1);
  Vacate(4, 2);
  EXPECT_EQ(table_->Trim(PageCount(1)), PageCount(2));
  EXPECT_EQ(State(2), PageState::kPrivate);
  EXPECT_EQ(State(4), PageState::kFree);
  EXPECT_EQ(account_.used(), kPage * 4);
  ASSERT_TRUE(Occupy(5, 1).ok());
  EXPECT_TRUE(All(5, 0));
}

TEST_P(PageTableTest, ContentsSurviveDemoteAndPromoteAndWritesWhileDemoted) {
  ASSERT_TRUE(Occupy(0, 3).ok());
  for (int64_t i = 0; i < 3; ++i) Fill(i, static_cast<char>('a' + i));
  ASSERT_TRUE(table_->Demote(PageIndex(1)).ok());
  EXPECT_EQ(account_.used(), kPage * 2);
  EXPECT_TRUE(All(1, 'b'));
  Fill(1, 'z');
  ASSERT_TRUE(table_->Promote(PageIndex(1)).ok());
  EXPECT_TRUE(All(0, 'a') && All(1, 'z') && All(2, 'c'));
  EXPECT_EQ(account_.used(), kPage * 3);
}

TEST_P(PageTableTest, OnlyPrivatePagesWithMovableBlocksAreDemoted) {
  ASSERT_TRUE(Occupy(0, 1, /*pinned=*/true).ok());
  ASSERT_TRUE(Occupy(1, 1).ok());
  ASSERT_TRUE(Occupy(2, 1).ok());
  Vacate(1, 1);
  EXPECT_TRUE(absl::IsFailedPrecondition(table_->Demote(PageIndex(0)))) << "pinned";
  EXPECT_TRUE(absl::IsFailedPrecondition(table_->Demote(PageIndex(1)))) << "cached";
  EXPECT_EQ(table_->DemotionCandidates().size(), 1u);
  ASSERT_TRUE(table_->Demote(PageIndex(2)).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(table_->Demote(PageIndex(2)))) << "demoted";
  EXPECT_TRUE(absl::IsFailedPrecondition(table_->Promote(PageIndex(0))));
}

TEST_P(PageTableTest, OverTheBudgetABlockIsBornInTheFileTier) {
  account_.set_limit(kPage * 2);
  ASSERT_TRUE(Occupy(0, 1).ok());
  EXPECT_FALSE(Occupy(1, 2).ok());
  EXPECT_EQ(table_->counts().file, PageCount(0));
  EXPECT_EQ(account_.used(), kPage) << "a refusal commits nothing";
  ASSERT_TRUE(Occupy(1, 3, false, /*may_spill=*/true).ok());
  EXPECT_EQ(State(1), PageState::kPrivate) << "what fits";
  EXPECT_EQ(State(2), PageState::kFile);
  EXPECT_EQ(State(3), PageState::kFile);
  EXPECT_EQ(table_->counts().streamed, PageCount(2)) << "about to be written";
  Fill(2, 'x');
  EXPECT_TRUE(absl::IsResourceExhausted(table_->Promote(PageIndex(2))));
  Vacate(0, 1);
  EXPECT_EQ(table_->Trim(PageCount(0)), PageCount(1));
  ASSERT_TRUE(table_->Promote(PageIndex(2)).ok());
  EXPECT_TRUE(All(2, 'x'));
  Vacate(1, 3);
  EXPECT_EQ(State(3), PageState::kFree);
}

// Told by a data loader's thread: it allocates beside a demoted block and writes while the stepping
// thread brings that page back at its boundary. What it wrote between the read and the publish was
// lost.
TEST_P(PageTableTest, APageOnWhichAnotherThreadWritesIsNotPromoted) {
  ASSERT_TRUE(table_->Occupy(Bytes(0), MiB(1), false, false).ok());
  ASSERT_TRUE(table_->Demote(PageIndex(0)).ok());
  ASSERT_TRUE(table_->Occupy(MiB(1), KiB(64), /*pinned=*/true, false).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(table_->Promote(PageIndex(0))));
  EXPECT_EQ(State(0), PageState::kFile);
  table_->Vacate(MiB(1), KiB(64), true);
  EXPECT_TRUE(table_->Promote(PageIndex(0)).ok());
}

TEST_P(PageTableTest, APageThatCouldNotBeUnmappedIsReusedAsItIs) {
  ASSERT_TRUE(Occupy(0, 1).ok());
  ASSERT_TRUE(table_->Demote(PageIndex(0)).ok());
  ArmFault("pages.map", absl::UnavailableError("armed"));
  Vacate(0, 1);
  EXPECT_EQ(State(0), PageState::kFile);
  EXPECT_TRUE(table_->Validate().ok());
  // Promoted without a block it must count as cached.
  ASSERT_TRUE(table_->Promote(PageIndex(0)).ok());
  EXPECT_TRUE(table_->Validate().ok()) << table_->Validate();
  EXPECT_EQ(table_->Trim(PageCount(0)), PageCount(1));
}

TEST_P(PageTableTest, EachFaultAtEachPositionOfABirthLeavesTheOldState) {
  account_.set_limit(kPage);
  ASSERT_TRUE(Occupy(0, 1).ok());
  for (const char* point : {"pages.map", "pages.spill_grow"}) {
    for (int position = 0; position < 4; ++position) {
      ArmFault(point, absl::UnavailableError("armed"), position);
      const bool ok = Occupy(4, 3, false, true).ok();
      DisarmFaults();
      ASSERT_TRUE(table_->Validate().ok()) << point << position << table_->Validate();
      if (ok) Vacate(4, 3);
      EXPECT_EQ(table_->counts().file, PageCount(0)) << point << position;
      EXPECT_EQ(spill_->used(), Bytes(0));
    }
  }
}

// The second failure hits the way back: the page stays mapped to its slot, so the slot must not be
// given away.
TEST_P(PageTableTest, AFailureOnTheWayBackOfABirthKeepsTheSlotOfThePageThatStaysMapped) {
  account_.set_limit(kPage);
  ASSERT_TRUE(Occupy(0, 1).ok());
  ArmFault("pages.map", absl::UnavailableError("armed"), /*skip=*/1, /*times=*/2);
  EXPECT_FALSE(Occupy(4, 2, false, true).ok());
  DisarmFaults();
  EXPECT_TRUE(table_->Validate().ok()) << table_->Validate();
  EXPECT_EQ(spill_->used(), table_->counts().file.bytes());
  ASSERT_TRUE(Occupy(10, 1, false, true).ok());
  Fill(10, 'x');
  Fill(4, 'y');
  EXPECT_TRUE(All(10, 'x')) << "two addresses on one slot";
}

TEST_P(PageTableTest, EachFaultOfADemotionLeavesThePagePrivate) {
  ASSERT_TRUE(Occupy(0, 1).ok());
  Fill(0, 'x');
  for (const char* point : {"pages.spill_grow", "pages.spill_write", "pages.map"}) {
    ArmFault(point, absl::UnavailableError("armed"));
    EXPECT_TRUE(absl::IsUnavailable(table_->Demote(PageIndex(0)))) << point;
    DisarmFaults();
    EXPECT_TRUE(table_->Validate().ok());
    EXPECT_EQ(State(0), PageState::kPrivate);
    EXPECT_TRUE(All(0, 'x')) << point;
  }
}

TEST_P(PageTableTest, EachFaultOfAPromotionLeavesThePageDemoted) {
  ASSERT_TRUE(Occupy(0, 1).ok());
  Fill(0, 'x');
  ASSERT_TRUE(table_->Demote(PageIndex(0)).ok());
  for (const char* point : {"pages.scratch", "pages.spill_read", "pages.publish"}) {
    ArmFault(point, absl::UnavailableError("armed"));
    EXPECT_TRUE(absl::IsUnavailable(table_->Promote(PageIndex(0)))) << point;
    DisarmFaults();
    EXPECT_TRUE(table_->Validate().ok());
    EXPECT_EQ(State(0), PageState::kFile);
    EXPECT_EQ(account_.used(), Bytes(0));
    EXPECT_TRUE(All(0, 'x')) << point;
  }
}

TEST_P(PageTableTest, RecordsVisitsAndOrdersFilePagesByFirstUse) {
  ASSERT_TRUE(Occupy(0, 3).ok());
  table_->Touch(kPage * 2, Bytes(8), 1, 1);
  table_->Touch(Bytes(0), kPage * 2, 5, 5);
  table_->Touch(Bytes(0), Bytes(8), 10, 10);
  table_->Touch(Bytes(0), Bytes(8), 70, 70);  // many operators later, but hardly a byte
  for (const int tick : {71, 72, 73}) table_->Touch(kPage * 3, MiB(50), tick, tick);
  table_->Touch(Bytes(0), Bytes(8), 75, 75);  // many bytes, but few operators later
  for (const int tick : {91, 92, 93}) table_->Touch(kPage * 3, MiB(50), tick, tick);
  table_->Touch(Bytes(0), Bytes(8), 120, 120);
  table_->FinishRecording();
  EXPECT_EQ(table_->page(PageIndex(0)).use.bursts, 2);
  EXPECT_EQ(table_->page(PageIndex(0)).use.visits[0], (Visit{5, 75}));
  EXPECT_EQ(table_->page(PageIndex(0)).use.visits[1], (Visit{120, 120}));
  EXPECT_EQ(table_->page(PageIndex(0)).use.first_tick, 5);
  EXPECT_EQ(table_->page(PageIndex(0)).use.last_tick, 120);
  EXPECT_EQ(table_->largest_operator(), MiB(50));
  EXPECT_EQ(table_->page(PageIndex(1)).use.bursts, 1);
  for (int64_t i = 0; i < 3; ++i) ASSERT_TRUE(table_->Demote(PageIndex(i)).ok());
  const auto order = table_->FilePages();
  ASSERT_EQ(order.size(), 3u);
  EXPECT_EQ(order[0].page, PageIndex(2));
}

TEST_P(PageTableTest, DropsThePagesThatAreNeededLastAndNoneInUse) {
  ASSERT_TRUE(Occupy(0, 4).ok());
  for (int64_t i = 0; i < 4; ++i) ASSERT_TRUE(table_->Demote(PageIndex(i)).ok());
  // Nothing is learnt: the least recently used go first.
  for (int64_t i = 0; i < 4; ++i) table_->Touch(kPage * i, Bytes(1), 10 * i, 10 - i);
  EXPECT_EQ(table_->counts().streamed, PageCount(4));
  EXPECT_EQ(table_->TakeFarthest(8, {.protect_from = 9, .tick = 30, .beyond = -1}),
            (std::vector<PageIndex>{PageIndex(3), PageIndex(2)}));
  EXPECT_EQ(table_->counts().streamed, PageCount(2));
  EXPECT_EQ(table_->TakeFarthest(1, {.protect_from = 100, .tick = 30, .beyond = -1}),
            std::vector<PageIndex>{PageIndex(1)});
  // Learnt: pages 0 to 3 are used at ticks 0, 10, 20, 30 of 31.
  table_->FinishRecording();
  for (int64_t i = 0; i < 4; ++i) table_->NoteInMemory(PageIndex(i), 0);
  EXPECT_EQ(table_->TakeFarthest(4, {.protect_from = 100, .tick = 15, .beyond = 15}),
            (std::vector<PageIndex>{PageIndex(1), PageIndex(0)}));
  EXPECT_EQ(table_->TakeFarthest(4, {.protect_from = 100, .tick = 20, .beyond = 0}),
            std::vector<PageIndex>{PageIndex(3)})
      << "the page in use stays";
}

TEST_P(PageTableTest, GivesItsOwnCachedPagesBackBeforeABlockIsRefused) {
  account_.set_limit(kPage * 4);
  ASSERT_TRUE(Occupy(0, 2).ok());
  Vacate(0, 2);
  EXPECT_EQ(table_->counts().cached, PageCount(2));
  ASSERT_TRUE(Occupy(4, 4).ok());
  EXPECT_EQ(table_->counts().cached, PageCount(0));
  EXPECT_EQ(State(0), PageState::kFree);
  EXPECT_TRUE(table_->Validate().ok());
}

TEST_P(PageTableTest, ABirthThatFailsInTheFileTierTakesNothing) {
  account_.set_limit(kPage * 3);
  ArmFault("pages.map", absl::UnavailableError("armed"));
  EXPECT_TRUE(absl::IsResourceExhausted(Occupy(0, 5, false, /*may_spill=*/true)));
  DisarmFaults();
  EXPECT_EQ(table_->counts().committed, PageCount(0));
  EXPECT_EQ(account_.used(), Bytes(0));
}

}  // namespace
}  // namespace tide::pages

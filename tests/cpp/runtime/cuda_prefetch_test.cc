// Pages that come back before their job's turn: which, how many, and when they do not.
#include "base/options.h"
#include "cuda_job_fixture.h"

namespace tide::runtime {
namespace {

/// All eight pages of device 1 are away.
class CudaPrefetchTest : public CudaJobTest {
 protected:
  void SetUp() override {
    CudaJobTest::SetUp();
    Grow(1, 5);
    StepAside();
    before_ = job_->Report(1);
  }
  void TearDown() override {
    SetShare("0.25");
    EXPECT_TRUE(job_->ComeBack().ok());
    EXPECT_TRUE(Exact());
    CudaJobTest::TearDown();
  }

  void StepAside() {
    Ask(1, MiB(16));
    ASSERT_EQ(job_->AtBoundary(CudaJob::Idle::kYes).given, MiB(16));
  }
  /// What comes after two looks.
  Bytes Wait(bool may = true) {
    job_->LookAhead(may);
    job_->LookAhead(may);
    return BringAll();
  }
  Bytes BringAll() {
    const Bytes there = job_->pages().counts(1).device;
    while (job_->Prefetch()) continue;
    return job_->pages().counts(1).device - there;
  }
  Bytes Counted() { return job_->Report(1).prefetched - before_.prefetched; }
  void SetShare(const char* share) { ASSERT_TRUE(SetOption("cuda.prefetch", share, "call").ok()); }

  CudaReport before_;
};

TEST_F(CudaPrefetchTest, AQuarterOfWhatIsAwayComesBackBeforeTheTurn) {
  job_->LookAhead(true);
  EXPECT_EQ(BringAll(), Bytes(0)) << "of others' memory nothing is known yet";
  EXPECT_EQ(Wait(), MiB(4));
  EXPECT_EQ(Wait(), Bytes(0)) << "more than a quarter";
  EXPECT_EQ(Counted(), Bytes(0)) << "the turn has not come";
  ASSERT_TRUE(job_->ComeBack().ok());
  EXPECT_EQ(Counted(), MiB(4));
  EXPECT_GT(job_->Report(1).prefetch_ns, before_.prefetch_ns);
  EXPECT_EQ(job_->pages().counts(1).promoted - before_.counts.promoted, 8) << "each came once";
  StepAside();
  EXPECT_EQ(Wait(), MiB(4)) << "it waits for its next turn";
}

TEST_F(CudaPrefetchTest, TheShareIsAnOptionAndNothingComesWhereItIsNone) {
  SetShare("0");
  EXPECT_EQ(Wait(), Bytes(0));
  SetShare("0.5");
  EXPECT_EQ(Wait(), MiB(8));
}

TEST_F(CudaPrefetchTest, NothingComesUntilWhoHasTheTurnHasSettled) {
  EXPECT_EQ(Wait(/*may=*/false), Bytes(0));
  EXPECT_EQ(Wait(), MiB(4));
}

TEST_F(CudaPrefetchTest, OnlyFreeRoomIsTaken) {
  const Neighbour neighbour(before_.table_path, MiB(3));
  EXPECT_EQ(Wait(), MiB(2));
}

TEST_F(CudaPrefetchTest, WhileTheMemoryOfOthersGrowsNothingComes) {
  Neighbour neighbour(before_.table_path, MiB(32));
  job_->LookAhead(true);
  neighbour.bytes() += MiB(2).value();
  job_->LookAhead(true);
  EXPECT_EQ(BringAll(), Bytes(0)) << "it grew between two looks";
  job_->LookAhead(true);
  ASSERT_TRUE(job_->Prefetch());
  neighbour.bytes() += MiB(2).value();
  EXPECT_EQ(BringAll(), Bytes(0)) << "it grew between two pages";
  EXPECT_EQ(Wait(), MiB(2));
}

TEST_F(CudaPrefetchTest, WhatAnybodyAsksForIsLeftToHim) {
  Neighbour neighbour(before_.table_path, MiB(32));
  neighbour.asked() = MiB(1).value();
  EXPECT_EQ(Wait(), Bytes(0));
  neighbour.asked() = 0;
  job_->LookAhead(true);
  ASSERT_TRUE(job_->Prefetch());
  neighbour.asked() = MiB(1).value();
  EXPECT_EQ(BringAll(), Bytes(0)) << "it was asked for between two pages";
  neighbour.asked() = 0;
}

TEST_F(CudaPrefetchTest, WhoIsAskedGivesItBackAndBringsNoMoreBeforeTheTurn) {
  job_->LookAhead(true);
  job_->LookAhead(true);
  ASSERT_TRUE(job_->Prefetch());
  Ask(1, MiB(2));
  EXPECT_FALSE(job_->Prefetch()) << "it looks at what is asked of it first";
  EXPECT_EQ(job_->AtBoundary(CudaJob::Idle::kYes).given, MiB(2));
  EXPECT_EQ(Wait(), Bytes(0));
  ASSERT_TRUE(job_->ComeBack().ok());
  EXPECT_EQ(Counted(), Bytes(0)) << "nothing was won";
  StepAside();
  EXPECT_EQ(Wait(), MiB(4));
}

TEST_F(CudaPrefetchTest, WhoIsAskedBringsNoMoreEvenWhereItHadNothingToGive) {
  job_->LookAhead(true);
  job_->LookAhead(true);
  ASSERT_TRUE(job_->Prefetch());
  Ask(1, MiB(2));
  ASSERT_EQ(job_->AtBoundary(CudaJob::Idle::kNo).given, Bytes(0));
  EXPECT_EQ(Wait(), Bytes(0));
  ASSERT_TRUE(job_->ComeBack().ok());
  EXPECT_EQ(Counted(), MiB(2)) << "that stayed";
}

TEST_F(CudaPrefetchTest, WhoWasAskedBeforeLeavesWhatItGaveUntilItIsTaken) {
  job_->LookAhead(true);
  Ask(1, MiB(2));
  job_->AtBoundary(CudaJob::Idle::kYes);
  job_->LookAhead(true);
  EXPECT_EQ(BringAll(), Bytes(0));
  job_->LookAhead(true);
  EXPECT_EQ(BringAll(), MiB(4));
}

TEST_F(CudaPrefetchTest, NothingComesDuringACaptureAndWhileSuspended) {
  capturing_ = true;
  EXPECT_EQ(Wait(), Bytes(0));
  capturing_ = false;
  ASSERT_TRUE(job_->SuspendAll().ok());
  EXPECT_EQ(Wait(), Bytes(0));
  job_->LeaveSuspensionAside();
  EXPECT_EQ(Wait(), MiB(4));
}

TEST_F(CudaPrefetchTest, WhatLeftAgainWithAPauseIsNoGain) {
  EXPECT_EQ(Wait(), MiB(4));
  ASSERT_TRUE(job_->SuspendAll().ok());
  job_->LeaveSuspensionAside();
  ASSERT_TRUE(job_->ComeBack().ok());
  EXPECT_EQ(Counted(), Bytes(0));
}

TEST_F(CudaPrefetchTest, OnlyWhatMustBeThereBeforeAnIterationComes) {
  const Segment& last = segments_.back();
  CudaFramework framework;
  framework.late = [&last] {
    const Bytes size(static_cast<int64_t>(last.size()));
    return std::vector<pages::ColdRange>{{last.at, size}};
  };
  job_->set_framework(std::move(framework));
  SetShare("1");
  EXPECT_EQ(Wait(), MiB(6)) << "the five pages of late state come in the iteration";
  for (const pages::DevicePage& page : job_->pages().Snapshot(1)) {
    const bool late = page.address >= last.at && page.address < last.at + last.size();
    EXPECT_EQ(page.tier == pages::DeviceTier::kDevice, !late);
  }
  ASSERT_TRUE(job_->ComeBack().ok());
  ASSERT_TRUE(job_->FinishReturn().ok());
}

TEST_F(CudaPrefetchTest, APageThatHasBeenFreedIsNoFailure) {
  SetShare("1");
  job_->LookAhead(true);
  job_->LookAhead(true);
  Shrink(segments_.back());
  segments_.pop_back();
  EXPECT_EQ(BringAll(), MiB(6));
}

TEST_F(CudaPrefetchTest, AFaultAnywhereLosesNothing) {
  Sweep([&] { return Wait() == MiB(4); },
        [&](bool worked) {
          EXPECT_EQ(Wait(), Bytes(0)) << "no more in this wait";
          ASSERT_TRUE(job_->ComeBack().ok());
          EXPECT_TRUE(Exact());
          EXPECT_TRUE(worked || job_->Report(1).prefetched < before_.prefetched + MiB(4));
          StepAside();
          before_ = job_->Report(1);
        },
        [] {});
}

}  // namespace
}  // namespace tide::runtime

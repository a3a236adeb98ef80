// A job that waits for its turn gives any page to who has it, and has all back before it runs.
#include "cuda_job_fixture.h"

namespace tide::runtime {
namespace {

class CudaAsideTest : public CudaJobTest {};

TEST_F(CudaAsideTest, WhoWaitsForItsTurnGivesAnyPageAndHasAllBackBeforeItRuns) {
  Ask(1, MiB(4));
  const BoundaryResult result = job_->AtBoundary(CudaJob::Idle::kYes);
  EXPECT_EQ(result.given, MiB(4));
  EXPECT_EQ(OnDevices(), MiB(6));
  EXPECT_TRUE(job_->IsAside());
  EXPECT_EQ(job_->suspended_devices(), 0);
  Ask(1, MiB(100));  // more than there is: all of it
  EXPECT_EQ(job_->AtBoundary(CudaJob::Idle::kYes).given, MiB(2));
  ASSERT_TRUE(job_->ComeBack().ok());
  EXPECT_FALSE(job_->IsAside());
  EXPECT_GT(job_->MoveNanos(), 0);
  EXPECT_EQ(job_->MoveNanos(), 0) << "it is said once";
  EXPECT_TRUE(Exact());
}

TEST_F(CudaAsideTest, WhoRunsGivesNoPageThatItNeeds) {
  Ask(1, MiB(4));
  EXPECT_EQ(job_->AtBoundary(CudaJob::Idle::kNo).given, Bytes(0));
  EXPECT_TRUE(Exact());
}

TEST_F(CudaAsideTest, ALimitCountsWhatIsAsideSinceItComesBack) {
  Ask(1, MiB(6));
  job_->AtBoundary(CudaJob::Idle::kYes);
  EXPECT_EQ(job_->SetLimit(1, MiB(4)), MiB(2));
  job_->SetLimit(1, Bytes(0));
  ASSERT_TRUE(job_->ComeBack().ok());
}

TEST_F(CudaAsideTest, ASuspensionMayEndWithThePagesAsideUntilTheTurn) {
  ASSERT_TRUE(job_->SuspendAll().ok());
  EXPECT_FALSE(job_->IsAside()) << "it is suspended, which is more";
  job_->LeaveSuspensionAside();
  EXPECT_EQ(job_->suspended_devices(), 0);
  EXPECT_TRUE(job_->IsAside());
  EXPECT_EQ(OnDevices(), Bytes(0));
  ASSERT_TRUE(job_->ComeBack().ok());
  EXPECT_TRUE(Exact());
}

TEST_F(CudaAsideTest, WithoutRoomNobodyComesBackByHalves) {
  Ask(1, MiB(6));
  job_->AtBoundary(CudaJob::Idle::kYes);
  job_->SetLimit(1, MiB(4));
  EXPECT_TRUE(absl::IsResourceExhausted(job_->ComeBack()));
  EXPECT_EQ(job_->pages().counts(1).device, Bytes(0));
  EXPECT_TRUE(job_->IsAside());
  job_->SetLimit(1, Bytes(0));
  ASSERT_TRUE(job_->ComeBack().ok());
  EXPECT_TRUE(Exact());
}

// ---- a fault at every driver call ----

TEST_F(CudaAsideTest, SteppingAsideThatFailsAnywhereLosesNothing) {
  Sweep(
      [&] {
        Ask(1, MiB(6));
        return job_->AtBoundary(CudaJob::Idle::kYes).given == MiB(6);
      },
      [&](bool) {
        ASSERT_TRUE(job_->ComeBack().ok());
        EXPECT_TRUE(Exact());
      },
      [&] { ASSERT_TRUE(job_->ComeBack().ok()); },
      /*times=*/3);  // one alone is met by the spill file
}

TEST_F(CudaAsideTest, ComingBackThatFailsAnywhereLosesNothing) {
  const auto leave = [&] {
    Ask(1, MiB(6));
    ASSERT_EQ(job_->AtBoundary(CudaJob::Idle::kYes).given, MiB(6));
  };
  leave();
  Sweep([&] { return job_->ComeBack().ok(); },
        [&](bool worked) {
          EXPECT_EQ(job_->IsAside(), !worked);
          if (worked) {
            EXPECT_TRUE(Exact());
          }
        },
        leave);
  ASSERT_TRUE(job_->ComeBack().ok());
}

}  // namespace
}  // namespace tide::runtime

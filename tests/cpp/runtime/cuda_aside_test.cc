// A job that waits for its turn gives any page to who has it, and has all back before it runs.
#include <sys/wait.h>

#include "absl/cleanup/cleanup.h"
#include "absl/time/clock.h"
#include "base/options.h"
#include "cuda_job_fixture.h"

namespace tide::runtime {
namespace {

using CudaAsideTest = CudaJobTest;

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

TEST_F(CudaAsideTest, WhoWaitsForMemoryGivesWhatItHasToWhoAsksMeanwhile) {
  // The neighbour has ended its loop, keeps its memory and wants a little more: were it not
  // answered, both would wait for each other.
  ASSERT_TRUE(SetOption("need.wait_ms", "60000", "call").ok());
  const absl::Cleanup impatient = [] { SetOption("need.wait_ms", "10", "call").IgnoreError(); };
  Ask(1, MiB(4));
  ASSERT_EQ(job_->AtBoundary(CudaJob::Idle::kYes).given, MiB(4));
  auto neighbour = std::make_unique<Neighbour>(job_->Report(1).table_path, MiB(3));
  Ask(1, MiB(1));
  const absl::Time begin = absl::Now();
  EXPECT_TRUE(absl::IsResourceExhausted(job_->ComeBack()));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(30)) << "it waited for who waits for it";
  EXPECT_EQ(job_->AtBoundary(CudaJob::Idle::kYes).given, MiB(2));
  neighbour.reset();
  ASSERT_TRUE(job_->ComeBack().ok());
  EXPECT_TRUE(Exact());
}

TEST_F(CudaAsideTest, ADriverThatRefusesAPageOnceDoesNotSendTheOthersAwayAgain) {
  constexpr int kOutOfMemory = 2;
  Ask(1, MiB(6));
  ASSERT_EQ(job_->AtBoundary(CudaJob::Idle::kYes).given, MiB(6));
  const int64_t left = job_->pages().counts(1).demoted;
  phantom_->ArmFault("cuMemCreate", 1, 2, kOutOfMemory);
  ASSERT_TRUE(job_->ComeBack().ok());
  EXPECT_EQ(job_->pages().counts(1).demoted, left) << "it began again";
  EXPECT_TRUE(Exact());
}

TEST_F(CudaAsideTest, OnASharedDeviceSomeMemoryStaysFreeForWhatAsksNobody) {
  ASSERT_TRUE(SetOption("cuda.headroom", "2MiB", "call").ok());
  const absl::Cleanup none = [] { SetOption("cuda.headroom", "0", "call").IgnoreError(); };
  const Bytes alone = job_->Report(1).capacity;
  {
    const Neighbour neighbour(job_->Report(1).table_path, alone);
    EXPECT_EQ(job_->Report(1).capacity, alone - MiB(2));
  }
  EXPECT_EQ(job_->Report(1).capacity, alone);
}

TEST_F(CudaAsideTest, WhatIsPromisedIsNotAskedForAgain) {
  Ask(1, MiB(4));
  ASSERT_EQ(job_->AtBoundary(CudaJob::Idle::kYes).given, MiB(4));
  {
    Neighbour neighbour(job_->Report(1).table_path, MiB(3));
    neighbour.asked() = MiB(4).value();                          // by somebody, and not given yet
    ASSERT_TRUE(SetOption("need.wait_ms", "600", "call").ok());  // long enough to ask again
    const absl::Cleanup impatient = [] { SetOption("need.wait_ms", "10", "call").IgnoreError(); };
    EXPECT_FALSE(job_->ComeBack().ok());
    EXPECT_EQ(neighbour.asked(), MiB(4).value());
    neighbour.asked() = 0;
    EXPECT_FALSE(job_->ComeBack().ok());
    EXPECT_GE(neighbour.asked(), MiB(1).value()) << "nobody was asked";
    EXPECT_LE(neighbour.asked(), MiB(4).value()) << "more than once";
  }
  ASSERT_TRUE(job_->ComeBack().ok());
}

TEST_F(CudaAsideTest, WhatADeadNeighbourHadIsNotWaitedFor) {
  ASSERT_TRUE(SetOption("need.wait_ms", "60000", "call").ok());
  const absl::Cleanup impatient = [] { SetOption("need.wait_ms", "10", "call").IgnoreError(); };
  Ask(1, MiB(4));
  ASSERT_EQ(job_->AtBoundary(CudaJob::Idle::kYes).given, MiB(4));
  const std::string path = job_->Report(1).table_path;
  const pid_t child = fork();
  if (child == 0) {
    new Neighbour(path, MiB(3));  // dies with its slot
    _exit(0);
  }
  siginfo_t ended;
  ASSERT_EQ(waitid(P_PID, child, &ended, WEXITED | WNOWAIT), 0);  // nobody has reaped it
  const absl::Time begin = absl::Now();
  EXPECT_TRUE(job_->ComeBack().ok());
  EXPECT_LT(absl::Now() - begin, absl::Seconds(30)) << "it waited for the dead";
  EXPECT_TRUE(Exact());
  waitpid(child, nullptr, 0);
}

TEST_F(CudaAsideTest, ASuspensionFitsWhenNobodyHasToGive) {
  ASSERT_TRUE(job_->SuspendAll().ok());
  EXPECT_TRUE(job_->SuspensionFits());
  {
    const Neighbour neighbour(job_->Report(1).table_path, MiB(3));
    EXPECT_FALSE(job_->SuspensionFits());
  }
  ASSERT_TRUE(job_->ResumeAll().ok());
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

// What a suspension and the return from it will take, by a clock on which bytes take their time.
#include <algorithm>

#include "cuda_job_fixture.h"

namespace tide::runtime {
namespace {

constexpr double kCopyNanos = 2;   // of a byte
constexpr double kMakeNanos = 20;  // of a byte of pinned memory

/// Goes by what the phantom has copied and the pool has made.
class WorkClock final : public Clock {
 public:
  WorkClock(const phantom::Control& phantom, pages::PinnedPool& pool)
      : phantom_(phantom), pool_(pool) {}
  absl::Time Now() override { return absl::UnixEpoch() + absl::Nanoseconds(MonotonicNanos()); }
  int64_t MonotonicNanos() override {
    const int64_t held = pool_.held().value();
    made_ += std::max<int64_t>(held - held_, 0);
    held_ = held;
    return static_cast<int64_t>(kCopyNanos * static_cast<double>(phantom_.figures().copied_bytes) +
                                kMakeNanos * static_cast<double>(made_));
  }

 private:
  const phantom::Control& phantom_;
  pages::PinnedPool& pool_;
  int64_t held_ = 0, made_ = 0;
};

class CudaPredictTest : public CudaJobTest {
 protected:
  void SetUp() override {
    CudaJobTest::SetUp();
    clock_ = std::make_unique<WorkClock>(*phantom_, job_->pages().pinned());
    job_->set_clock(*clock_);
  }
  void TearDown() override {
    job_->set_clock(RealClock());
    CudaJobTest::TearDown();
  }
  double Seconds(const std::function<absl::Status()>& step) {
    const int64_t begin = clock_->MonotonicNanos();
    EXPECT_TRUE(step().ok());
    return static_cast<double>(clock_->MonotonicNanos() - begin) * 1e-9;
  }

  std::unique_ptr<WorkClock> clock_;
};

TEST_F(CudaPredictTest, TwentySwitchesOfSizesThatChangeArePredictedWithinAQuarter) {
  std::vector<double> errors;
  Grow(1, 20);
  for (int i = 0; i < 20; ++i) {
    if (i % 8 == 4) Grow(1, 4 + i);
    if (i % 8 == 0 && i > 0) {
      Shrink(segments_.back());
      segments_.pop_back();
    }
    if (i == 6 || i == 14) job_->pages().pinned().Trim(Bytes(0));  // the host wants its memory
    const double out = job_->Predict().suspend_s;
    const double took = Seconds([&] { return job_->SuspendAll().status(); });
    const double back = job_->Predict().resume_s;
    const double returned = Seconds([&] { return job_->ResumeAll(); });
    ASSERT_GT(took, 0);
    ASSERT_GT(returned, 0);
    errors.push_back(std::max(std::abs(out / took - 1), std::abs(back / returned - 1)));
  }
  std::sort(errors.begin(), errors.end());
  EXPECT_LT(errors[10], 0.25) << ::testing::PrintToString(errors);
  EXPECT_TRUE(Exact());
}

TEST_F(CudaPredictTest, BeforeTheFirstPauseThereIsAnAnswerForEachDeviceAndTheirSum) {
  const CudaReport first = job_->Report(0), second = job_->Report(1);
  EXPECT_GT(first.predicted_suspend_s, 0);
  EXPECT_GT(second.predicted_suspend_s, first.predicted_suspend_s) << "it has more";
  EXPECT_GT(first.predicted_resume_s, 0);
  EXPECT_NEAR(job_->Predict().suspend_s, first.predicted_suspend_s + second.predicted_suspend_s,
              1e-9);
  EXPECT_NEAR(job_->Predict().resume_s, first.predicted_resume_s + second.predicted_resume_s, 1e-9);
}

TEST_F(CudaPredictTest, WhatAFlushGivesBackIsNotCounted) {
  Grow(0, 60);
  const double all = job_->Predict(0).suspend_s;
  CudaFramework framework;
  Bytes cached = MiB(120);
  framework.cached = [&](int) { return cached; };
  job_->set_framework(std::move(framework));
  job_->AskForCached(0);
  EXPECT_LT(job_->Predict(0).suspend_s, all / 4);
  cached = GiB(100);  // more than there is: no prediction is negative
  job_->AskForCached(0);
  EXPECT_GE(job_->Predict(0).suspend_s, 0);
  cached = Bytes(0);
  job_->AskForCached(0);
  EXPECT_EQ(job_->Predict(0).suspend_s, all);
}

TEST_F(CudaPredictTest, PagesAsideAreNoPartOfAPauseButOfTheReturn) {
  const CudaJob::Predicted before = job_->Predict(1);
  Ask(1, MiB(4));
  ASSERT_EQ(job_->AtBoundary(1, CudaJob::Idle::kYes).given, MiB(4));
  EXPECT_LT(job_->Predict(1).suspend_s, before.suspend_s);
  EXPECT_GT(job_->Predict(1).resume_s, 0);
  ASSERT_TRUE(job_->ComeBack().ok());
}

}  // namespace
}  // namespace tide::runtime

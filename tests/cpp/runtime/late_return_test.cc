// A resume that leaves for later what the next iteration touches last.
#include <thread>

#include "absl/synchronization/notification.h"
#include "cuda_job_fixture.h"

namespace tide::runtime {
namespace {

class LateReturnTest : public CudaJobTest {
 protected:
  void SetUp() override {
    CudaJobTest::SetUp();
    CudaFramework framework;
    framework.late = [this] { return late_; };
    framework.layers = [this] { return layers_; };
    framework.watch = [this](bool on) { watched_.push_back(on); };
    job_->set_framework(std::move(framework));
    // The second page of the first device is state that only a step touches.
    late_ = {{segments_[0].at + kPageSize, Bytes(kPageSize)}};
  }
  void TearDown() override {
    phantom_->HoldCall(nullptr);
    EXPECT_TRUE(job_->FinishReturn().ok());
    EXPECT_EQ(job_->pages().counts(0).room, Bytes(0));
    CudaJobTest::TearDown();
  }
  std::vector<uint32_t> Read(cuda::DevicePointer at, size_t size) {
    const cuda::ScopedContext context(*driver_, 0);
    std::vector<uint32_t> values(size / sizeof(uint32_t));
    EXPECT_EQ(driver_->calls().copy_to_host(values.data(), at, size), 0);
    return values;
  }
  using CudaJobTest::Exact;
  bool Exact(int page) {
    const size_t count = kPageSize / sizeof(uint32_t);
    const auto first = segments_[0].values.begin() + static_cast<std::ptrdiff_t>(page * count);
    return Read(segments_[0].at + page * kPageSize, kPageSize) ==
           std::vector<uint32_t>(first, first + static_cast<std::ptrdiff_t>(count));
  }
  void SuspendAndResumeHeld() {
    ASSERT_TRUE(job_->Suspend(0, pages::DeviceTier::kHostCopy).ok());
    phantom_->HoldCall("cuMemcpyHtoDAsync");  // the late pages' copies
    ASSERT_TRUE(job_->Resume(0).ok());
  }
  pages::ColdRange Page(int page) const {
    return {segments_[1].at + page * kPageSize, Bytes(kPageSize)};
  }
  void Use(int page) { job_->BeforeUse(Page(page)); }
  int64_t Coming() { return job_->pages().counts(1).room.value() / kPageSize; }
  /// The three pages of the second device are layers, used from the last to the first.
  void Learn() {
    layers_ = {Page(0), Page(1), Page(2)};
    ASSERT_TRUE(job_->SuspendAll().ok());
    ASSERT_TRUE(job_->ResumeAll().ok());
    for (int page : {2, 1, 0}) Use(page);
    job_->EndForward();
    ASSERT_TRUE(job_->SuspendAll().ok());
  }
  std::vector<pages::ColdRange> late_;
  std::vector<pages::ColdRange> layers_;
  std::vector<bool> watched_;
};

TEST_F(LateReturnTest, LayersComeInTheOrderOfTheirUse) {
  late_.clear();
  Learn();
  phantom_->HoldCall("cuMemcpyHtoDAsync");
  ASSERT_TRUE(job_->ResumeAll().ok());
  EXPECT_EQ(Coming(), 3);
  for (int page : {2, 1, 0}) {
    phantom_->LetThrough(1);  // of another page, and this one would wait for ever
    Use(page);
    EXPECT_EQ(Coming(), page);
  }
  phantom_->HoldCall(nullptr);
  EXPECT_TRUE(Exact());
  EXPECT_EQ(watched_, std::vector<bool>({true, false, true}));
  job_->AtBoundary();
  EXPECT_FALSE(watched_.back()) << "operators of the next iteration would pay for nothing";
}

TEST_F(LateReturnTest, ALayerThatIsUsedEarlierComesNext) {
  late_.clear();
  Learn();
  phantom_->HoldCall("cuMemcpyHtoDAsync");
  ASSERT_TRUE(job_->ResumeAll().ok());
  const int64_t waits = job_->late_waits();
  std::thread user([this] { Use(0); });
  while (job_->late_waits() == waits) std::this_thread::yield();
  phantom_->LetThrough(2);  // the first was on its way
  user.join();
  EXPECT_EQ(Coming(), 1);
  phantom_->HoldCall(nullptr);
  job_->EndForward();
  EXPECT_EQ(Coming(), 0) << "what is used from here on is not seen";
  EXPECT_TRUE(Exact());
}

TEST_F(LateReturnTest, ALayerThatFailsIsTriedByWhatUsesIt) {
  late_.clear();
  Learn();
  phantom_->ArmFault("cuMemcpyHtoDAsync", 0, 1, 999);
  ASSERT_TRUE(job_->ResumeAll().ok());
  for (int page : {0, 1, 2}) Use(page);
  EXPECT_EQ(Coming(), 0);
  EXPECT_TRUE(Exact());
}

TEST_F(LateReturnTest, EveryFailureOnTheWayOfLayersLeavesThemWholeAtTheNextResume) {
  late_.clear();
  Learn();
  for (int fault = 0; fault < 40; ++fault) {
    phantom_->ArmFault("*", fault, 1, 999);
    const bool resumed = job_->ResumeAll().ok();
    for (int page : {1, 2, 0}) Use(page);
    job_->EndForward();
    phantom_->DisarmFaults();
    if (!resumed) {
      ASSERT_TRUE(job_->ResumeAll().ok());
    }
    ASSERT_TRUE(job_->FinishReturn().ok());
    ASSERT_TRUE(Exact()) << "fault " << fault;
    ASSERT_TRUE(job_->SuspendAll().ok());
  }
  ASSERT_TRUE(job_->ResumeAll().ok());
}

TEST_F(LateReturnTest, TheJobGoesOnBeforeLatePagesAreBackAndTheWaitSeesThemWhole) {
  SuspendAndResumeHeld();
  EXPECT_EQ(job_->suspended_devices(), 0);
  EXPECT_EQ(job_->pages().counts(0).room, Bytes(kPageSize));
  EXPECT_FALSE(job_->IsAside()) << "it would be brought back a second time";
  EXPECT_TRUE(Exact(0));  // an iteration may touch this one
  absl::Notification back;
  std::thread step([&] {
    EXPECT_TRUE(job_->FinishReturn().ok());
    back.Notify();
  });
  EXPECT_FALSE(back.HasBeenNotified());
  phantom_->HoldCall(nullptr);
  step.join();
  EXPECT_EQ(job_->pages().counts(0).room, Bytes(0));
  EXPECT_TRUE(Exact(1));
}

TEST_F(LateReturnTest, ABoundaryWaitsForWhatNoStepHasWaitedFor) {
  SuspendAndResumeHeld();
  phantom_->HoldCall(nullptr);
  job_->AtBoundary();
  EXPECT_EQ(job_->pages().counts(0).room, Bytes(0));
  EXPECT_TRUE(Exact(0) && Exact(1));
}

TEST_F(LateReturnTest, ASuspensionMeanwhileTakesLatePagesToo) {
  SuspendAndResumeHeld();
  phantom_->HoldCall(nullptr);
  ASSERT_TRUE(job_->SuspendAll().ok());
  EXPECT_EQ(job_->pages().counts(0).room, Bytes(0));
  EXPECT_EQ(job_->Report(0).used, Bytes(0));
  ASSERT_TRUE(job_->ResumeAll().ok());
  EXPECT_TRUE(job_->FinishReturn().ok());
  EXPECT_TRUE(Exact(0) && Exact(1));
}

TEST_F(LateReturnTest, ALatePageThatFailsIsTriedByTheWaitWhichSaysWhy) {
  ASSERT_TRUE(job_->SuspendAll().ok());
  phantom_->ArmFault("cuMemcpyHtoDAsync", 0, 2, 999);  // for the thread and for the first wait
  ASSERT_TRUE(job_->ResumeAll().ok());
  const absl::Status failed = job_->FinishReturn();
  EXPECT_THAT(std::string(failed.message()), ::testing::HasSubstr("copy a page"));
  EXPECT_TRUE(job_->FinishReturn().ok());
  EXPECT_TRUE(Exact(1));
}

TEST_F(LateReturnTest, WithoutRoomForLatePagesNothingReturnsAndNoRoomIsHeld) {
  ASSERT_TRUE(job_->SuspendAll().ok());
  job_->SetLimit(0, Bytes(kPageSize));  // the first fits, the late one does not
  EXPECT_FALSE(job_->ResumeAll().ok());
  EXPECT_EQ(job_->pages().counts(0).room, Bytes(0));
  EXPECT_EQ(job_->pages().counts(0).device, Bytes(0));
  job_->SetLimit(0, Bytes(0));
  ASSERT_TRUE(job_->ResumeAll().ok());
  EXPECT_TRUE(job_->FinishReturn().ok());
  EXPECT_TRUE(Exact(0) && Exact(1));
}

TEST_F(LateReturnTest, APageWithSomethingElseOnItReturnsWithTheOthers) {
  late_ = {{segments_[0].at + kPageSize, Bytes(kPageSize - 4096)}};
  SuspendAndResumeHeld();
  EXPECT_EQ(job_->pages().counts(0).room, Bytes(0));
  EXPECT_TRUE(Exact(0) && Exact(1));
}

}  // namespace
}  // namespace tide::runtime

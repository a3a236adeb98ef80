// Pages whose contents nobody wants leave without a copy and return filled with zeros.
#include "cuda_job_fixture.h"

namespace tide::runtime {
namespace {

class CudaTagsTest : public CudaJobTest {
 protected:
  void SetUp() override {
    CudaJobTest::SetUp();
    CudaFramework framework;
    framework.unwanted = [this] { return unwanted_; };
    job_->set_framework(std::move(framework));
    // The second page of the second device, and a part of the third.
    unwanted_ = {{segments_[1].at + kPageSize, Bytes(kPageSize + 4096)}};
  }
  void TearDown() override {
    job_->TakeLost(1);
    CudaJobTest::TearDown();
  }
  void ExpectLost(bool lost) {
    Segment& segment = segments_[1];
    if (lost) {
      const size_t count = kPageSize / sizeof(uint32_t);
      std::fill_n(segment.values.begin() + static_cast<std::ptrdiff_t>(count), count, 0);
    }
    EXPECT_TRUE(Exact());
    const auto told = job_->TakeLost(1);
    ASSERT_EQ(told.size(), lost ? 1u : 0u);
    if (lost) {
      EXPECT_EQ(told[0].at, segment.at + kPageSize);
      EXPECT_EQ(told[0].size, Bytes(kPageSize));
    }
    EXPECT_TRUE(job_->TakeLost(1).empty());
  }
  pages::DeviceCounts Counts() const { return job_->pages().counts(1); }
  std::vector<pages::ColdRange> unwanted_;
};

TEST_F(CudaTagsTest, ASuspensionCopiesTheOthersOnly) {
  ASSERT_TRUE(job_->SuspendAll().ok());
  EXPECT_EQ(Counts().dropped, Bytes(kPageSize));
  EXPECT_EQ(Counts().host_copy, Bytes(2 * kPageSize));
  EXPECT_EQ(Counts().device, Bytes(0));
  EXPECT_EQ(Counts().reserved(), Bytes(3 * kPageSize));
  EXPECT_TRUE(job_->pages().Validate().ok()) << job_->pages().Validate();
  ASSERT_TRUE(job_->ResumeAll().ok());
  EXPECT_EQ(Counts().dropped, Bytes(0));
  ExpectLost(true);
  unwanted_.clear();
  ASSERT_TRUE(job_->SuspendAll().ok());
  ASSERT_TRUE(job_->ResumeAll().ok());
  ExpectLost(false);
}

TEST_F(CudaTagsTest, WhoWaitsForItsTurnGivesThemFirst) {
  const uint64_t copies = phantom_->figures().copies;
  Ask(1, Bytes(kPageSize));
  EXPECT_EQ(job_->AtBoundary(1, CudaJob::Idle::kYes).given, Bytes(kPageSize));
  EXPECT_EQ(phantom_->figures().copies, copies) << "nothing had to be copied";
  EXPECT_TRUE(job_->IsAside());
  ASSERT_TRUE(job_->ComeBack().ok());
  EXPECT_FALSE(job_->IsAside());
  ExpectLost(true);
}

TEST_F(CudaTagsTest, APageThatIsFreedWhileItIsAwayIsForgotten) {
  ASSERT_TRUE(job_->SuspendAll().ok());
  Segment& segment = segments_[1];
  Shrink(segment);
  EXPECT_EQ(Counts().dropped, Bytes(0));
  segments_.pop_back();
  ASSERT_TRUE(job_->ResumeAll().ok());
  EXPECT_TRUE(Exact());
}

TEST_F(CudaTagsTest, EveryFailureLeavesAJobThatGoesOn) {
  for (int fault = 0; fault < 60; ++fault) {
    SCOPED_TRACE(::testing::Message() << "call " << fault);
    phantom_->ArmFault("*", fault, 1, 999);
    const bool left = job_->SuspendAll().ok();
    const bool back = job_->ResumeAll().ok();
    phantom_->DisarmFaults();
    ASSERT_TRUE(job_->ResumeAll().ok());
    EXPECT_TRUE(job_->pages().Validate().ok()) << job_->pages().Validate();
    EXPECT_EQ(Counts().device - Counts().spare, Bytes(3 * kPageSize));
    const auto lost = job_->TakeLost(1);
    if (!lost.empty()) {
      const size_t count = kPageSize / sizeof(uint32_t);
      std::fill_n(segments_[1].values.begin() + static_cast<std::ptrdiff_t>(count), count, 0);
    }
    EXPECT_TRUE(Exact());
    if (left && back) return;
  }
  ADD_FAILURE() << "it never works";
}

}  // namespace
}  // namespace tide::runtime

// Work that was put on a stream happens late, as on a device: each move waits for it, and the
// phantom sees where one does not. In each test the wait is taken away once, and then the move must
// be seen to spoil the work.
#include <algorithm>

#include "cuda_job_fixture.h"
#include "phantom/faults.h"

namespace tide::runtime {
namespace {

class CudaAsyncTest : public CudaJobTest {
 protected:
  static constexpr int kLate = 1;

  void SetUp() override {
    CudaJobTest::SetUp();
    const cuda::ScopedContext context(*driver_, 1);
    stream_ = phantom_->Stream();
    job_->AtBoundary(0);  // measured: nothing of what follows waits for another reason
    job_->AtBoundary(1);
  }
  void TearDown() override {
    phantom_->SetDelay(0);
    CudaJobTest::TearDown();
  }
  /// A kernel that uses all of the job's memory on device 1, put on a stream of its own; `move`;
  /// then what the stream says at last.
  template <typename Act>
  int KernelAnd(Act move) {
    const cuda::ScopedContext context(*driver_, 1);
    phantom_->SetDelay(kLate);
    EXPECT_EQ(phantom_->Touch(segments_[1].at, segments_[1].size(), stream_), 0);
    EXPECT_EQ(phantom_->pending(), 1u);
    move();
    const int result = phantom_->Synchronize(stream_);
    phantom_->SetDelay(0);
    return result;
  }
  /// Runs the move twice: with its waits, and with none.
  template <typename Act, typename Undo>
  void ExpectThatItWaits(Act move, Undo undo) {
    EXPECT_EQ(KernelAnd(move), 0) << "the work was spoiled";
    undo();
    EXPECT_TRUE(Exact());
    phantom_->ArmFault("cuCtxSynchronize", 0, 1000, phantom::kNothingDone);
    EXPECT_EQ(KernelAnd(move), cuda::kIllegalAddress) << "nobody has seen that a wait is missing";
    phantom_->DisarmFaults();
    phantom_->Forgive();
    undo();
    EXPECT_TRUE(Exact());
  }
  void* stream_ = nullptr;
};

TEST_F(CudaAsyncTest, AShrinkWaitsForTheDevice) {
  cold_ = {{segments_[1].at, MiB(6)}};
  ExpectThatItWaits([&] { job_->MoveLimit(1, MiB(2)).IgnoreError(); },
                    [&] { ASSERT_TRUE(job_->MoveLimit(1, Bytes(0)).ok()); });
}

TEST_F(CudaAsyncTest, AGrowthWaitsForTheDevice) {
  cold_ = {{segments_[1].at, MiB(6)}};
  ASSERT_TRUE(job_->MoveLimit(1, MiB(2)).ok());
  ExpectThatItWaits([&] { job_->MoveLimit(1, Bytes(0)).IgnoreError(); },
                    [&] { ASSERT_TRUE(job_->MoveLimit(1, MiB(2)).ok()); });
  ASSERT_TRUE(job_->MoveLimit(1, Bytes(0)).ok());
}

TEST_F(CudaAsyncTest, ASuspensionWaitsForTheDevices) {
  ExpectThatItWaits([&] { job_->SuspendAll().IgnoreError(); },
                    [&] { ASSERT_TRUE(job_->ResumeAll().ok()); });
}

TEST_F(CudaAsyncTest, WhoStepsAsideForAnothersTurnWaitsForTheDevice) {
  ExpectThatItWaits(
      [&] {
        Ask(1, MiB(6));
        job_->AtBoundary(CudaJob::Idle::kYes);
      },
      [&] { ASSERT_TRUE(job_->ComeBack().ok()); });
}

TEST_F(CudaAsyncTest, ABoundaryThatGivesColdPagesAndOneThatTakesThemBackWait) {
  cold_ = {{segments_[1].at, MiB(6)}};
  ExpectThatItWaits(
      [&] {
        Ask(1, MiB(4));
        job_->AtBoundary();
      },
      [&] { ASSERT_TRUE(job_->Restore(1).ok()); });
  ASSERT_TRUE(job_->MakeRoom(1, MiB(4)).ok());
  ExpectThatItWaits([&] { job_->AtBoundary(); },
                    [&] { ASSERT_TRUE(job_->MakeRoom(1, MiB(4)).ok()); });
  ASSERT_TRUE(job_->Restore(1).ok());
}

TEST_F(CudaAsyncTest, ATurnPassesWithNothingLeftToDo) {
  EXPECT_EQ(KernelAnd([&] {
              job_->FinishWork();
              EXPECT_EQ(phantom_->pending(), 0u);
            }),
            0);
  phantom_->ArmFault("cuCtxSynchronize", 0, 1000, phantom::kNothingDone);
  EXPECT_EQ(KernelAnd([&] {
              job_->FinishWork();
              EXPECT_EQ(phantom_->pending(), 1u) << "the wait is seen";
            }),
            0);
}

TEST_F(CudaAsyncTest, ACopyFromPinnedMemoryThatIsUnderWayArrivesBeforeItsPageLeaves) {
  const cuda::ScopedContext context(*driver_, 1);
  Segment& segment = segments_[1];
  void* pinned = nullptr;
  const auto allocate =
      reinterpret_cast<int (*)(void**, size_t, unsigned)>(driver_->Symbol("cuMemHostAlloc"));
  const auto copy = reinterpret_cast<int (*)(cuda::DevicePointer, const void*, size_t, void*)>(
      driver_->Symbol("cuMemcpyHtoDAsync_v2"));
  ASSERT_EQ(allocate(&pinned, segment.size(), 0), 0);
  std::iota(segment.values.begin(), segment.values.end(), 77u);
  std::copy(segment.values.begin(), segment.values.end(), static_cast<uint32_t*>(pinned));
  phantom_->SetDelay(kLate);
  ASSERT_EQ(copy(segment.at, pinned, segment.size(), stream_), 0);
  EXPECT_EQ(phantom_->pending(), 1u);
  ASSERT_TRUE(job_->SuspendAll().ok());
  std::fill_n(static_cast<uint32_t*>(pinned), segment.values.size(), 0u);  // the next batch
  ASSERT_TRUE(job_->ResumeAll().ok());
  EXPECT_EQ(phantom_->Synchronize(stream_), 0);
  phantom_->SetDelay(0);
  EXPECT_TRUE(Exact());
  EXPECT_EQ(reinterpret_cast<int (*)(void*)>(driver_->Symbol("cuMemFreeHost"))(pinned), 0);
}

}  // namespace
}  // namespace tide::runtime

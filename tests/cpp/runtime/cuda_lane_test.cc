// Iterations on scratch of a lane: what is alive survives whatever the driver refuses, and what is
// not is shared, given to who asks, and there again with the turn.
#include "cuda_job_fixture.h"

namespace tide::runtime {
namespace {

using ::testing::SizeIs;

constexpr LaneId kLane(2);

class CudaLaneTest : public CudaJobTest {
 protected:
  void SetUp() override {
    CudaJobTest::SetUp();
    if (HasFatalFailure()) return;
    CudaFramework framework;
    framework.capturing = [this] { return capturing_; };
    framework.flush = [this](int device) { return Flush(device); };
    framework.open_lane = [this](int device) {
      opened_.push_back(device);
      return absl::OkStatus();
    };
    framework.close_lane = [this](int device) -> absl::StatusOr<pages::LanePool> {
      if (!close_status_.ok()) return close_status_;
      return device == 0 ? pool_ : pages::LanePool();
    };
    job_->set_framework(std::move(framework));
    Grow(0, kPool);
    pool_.segments = {{pool().at, Bytes(static_cast<int64_t>(pool().size()))}};
  }
  void TearDown() override {
    phantom_->DisarmFaults();
    capturing_ = false;
    EXPECT_TRUE(job_->CloseLane().ok());
    job_->LeaveLane();
    CudaJobTest::TearDown();
  }

  Segment& pool() { return segments_.back(); }
  cuda::DevicePointer PageAt(int page) { return pool().at + page * kPageSize; }
  /// A block in the middle of a page of the pool.
  void Alive(std::vector<int> pages) {
    pool_.live.clear();
    for (int page : pages) pool_.live.push_back({PageAt(page) + kPageSize / 2, Bytes(512)});
    alive_ = std::move(pages);
  }
  bool Run() {
    if (!job_->EnterLane(kLane).ok()) return false;
    job_->OpenLane();
    return job_->CloseLane().ok();
  }
  bool HasValues(int page) {
    const cuda::ScopedContext context(*driver_, 0);
    std::vector<uint32_t> values(kPageSize / sizeof(uint32_t));
    if (driver_->calls().copy_to_host(values.data(), PageAt(page), kPageSize) != 0) return false;
    return std::equal(values.begin(), values.end(),
                      pool().values.begin() + static_cast<int64_t>(page * values.size()));
  }
  /// Everything but the scratch.
  bool AliveIsExact() {
    Segment scratch = std::move(segments_.back());
    segments_.pop_back();
    const bool others = Exact();
    segments_.push_back(std::move(scratch));
    return others &&
           std::all_of(alive_.begin(), alive_.end(), [this](int page) { return HasValues(page); });
  }
  Bytes OnLane() { return job_->pages().counts(0).lane; }
  Bytes Charged() { return job_->Report(0).lanes; }
  /// The iteration writes to all of its scratch.
  void WriteAll() {
    const cuda::ScopedContext context(*driver_, 0);
    ASSERT_EQ(driver_->calls().copy_to_device(pool().at, pool().values.data(), pool().size()), 0);
  }

  static constexpr int kPool = 4;
  pages::LanePool pool_;
  std::vector<int> alive_;
  std::vector<int> opened_;
  absl::Status close_status_;
};

TEST_F(CudaLaneTest, WhatIsNotAliveIsTheLanesAndTheRestIsPrivate) {
  Alive({1});
  ASSERT_TRUE(Run());
  EXPECT_THAT(opened_, SizeIs(kDevices)) << "all devices that are in use";
  EXPECT_EQ(OnLane(), MiB(6));
  EXPECT_EQ(Charged(), MiB(6));
  EXPECT_EQ(job_->Report(0).chunks, MiB(6));
  EXPECT_EQ(OnDevices(), MiB(4 + 6 + 2));
  EXPECT_EQ(job_->Report(0).used, MiB(4 + 2 + 6));
  EXPECT_TRUE(AliveIsExact());
  EXPECT_THAT(flushed_, SizeIs(kDevices)) << "what the first iterations left in the cache";
}

TEST_F(CudaLaneTest, WhatComesToLifeLeavesAndTheLaneShrinks) {
  Alive({});
  ASSERT_TRUE(Run());
  EXPECT_EQ(Charged(), MiB(8));
  job_->OpenLane();
  WriteAll();
  Alive({0, 2});
  ASSERT_TRUE(job_->CloseLane().ok());
  EXPECT_EQ(Charged(), MiB(4)) << "chunks behind no page are given back";
  EXPECT_TRUE(AliveIsExact());
}

TEST_F(CudaLaneTest, WithoutMemoryForWhatIsAliveTheLaneStaysOpenAndTheCallIsRepeated) {
  Alive({});
  ASSERT_TRUE(Run());
  job_->OpenLane();
  WriteAll();
  Alive({0, 2});
  phantom_->ArmFault("cuMemCreate", 0, 1000, cuda::kOutOfMemory);
  EXPECT_TRUE(absl::IsResourceExhausted(job_->CloseLane()));
  EXPECT_THAT(flushed_, SizeIs(kDevices + 1)) << "PyTorch's cache was asked";
  EXPECT_EQ(OnLane(), MiB(8));
  EXPECT_EQ(job_->SuspendAll().status().code(), absl::StatusCode::kUnavailable)
      << "addresses with live blocks are not emptied";
  job_->LeaveLane();
  EXPECT_TRUE(job_->InLane());
  phantom_->DisarmFaults();
  EXPECT_TRUE(AliveIsExact());
  EXPECT_TRUE(job_->CloseLane().ok());
  EXPECT_TRUE(AliveIsExact());
  EXPECT_EQ(OnLane(), MiB(4));
}

TEST_F(CudaLaneTest, DuringACaptureNothingMovesAndTheTurnIsKept) {
  ASSERT_TRUE(Run());
  job_->OpenLane();
  capturing_ = true;
  EXPECT_TRUE(absl::IsUnavailable(job_->CloseLane()));
  capturing_ = false;
  EXPECT_TRUE(job_->CloseLane().ok());
}

TEST_F(CudaLaneTest, WhoAsksForMemoryGetsScratchBeforeAnythingIsCopied) {
  ASSERT_TRUE(Run());
  Ask(0, MiB(4));
  const BoundaryResult result = job_->AtBoundary(0, CudaJob::Idle::kYes);
  EXPECT_EQ(result.given, MiB(8)) << "all of it: it costs nothing to keep less";
  EXPECT_EQ(job_->pages().counts(0).host_copy, Bytes(0));
  EXPECT_EQ(Charged(), Bytes(0));
  EXPECT_TRUE(AliveIsExact());
  ASSERT_TRUE(job_->EnterLane(kLane).ok());
  EXPECT_EQ(Charged(), MiB(8));
  WriteAll();
}

TEST_F(CudaLaneTest, AnOpenLaneIsGivenToNobody) {
  ASSERT_TRUE(Run());
  job_->OpenLane();
  Ask(0, MiB(4));
  job_->AtBoundary(0);
  EXPECT_EQ(Charged(), MiB(8));
  ASSERT_TRUE(job_->CloseLane().ok());
}

TEST_F(CudaLaneTest, APauseTakesTheScratchAlongAndTheNextTurnBringsIt) {
  Alive({1});
  ASSERT_TRUE(Run());
  const auto freed = job_->SuspendAll();
  ASSERT_TRUE(freed.ok()) << freed.status();
  EXPECT_EQ(*freed, MiB(4 + 6 + 2 + 6));
  EXPECT_EQ(phantom_->ledger(0).used, 0u);
  EXPECT_EQ(job_->Report(0).used, Bytes(0));
  ASSERT_TRUE(job_->ResumeAll().ok());
  EXPECT_EQ(Charged(), Bytes(0)) << "it is needed with the turn only";
  EXPECT_TRUE(AliveIsExact());
  ASSERT_TRUE(Run());
  EXPECT_EQ(Charged(), MiB(6));
  EXPECT_TRUE(AliveIsExact());
}

TEST_F(CudaLaneTest, WhoLeavesGivesAllOfItBackAndMayJoinAnotherLane) {
  ASSERT_TRUE(Run());
  job_->LeaveLane();
  EXPECT_FALSE(job_->InLane());
  EXPECT_EQ(Charged(), Bytes(0));
  ASSERT_TRUE(job_->EnterLane(LaneId(5)).ok());
  job_->OpenLane();
  EXPECT_TRUE(job_->CloseLane().ok());
  EXPECT_EQ(Charged(), MiB(8));
  ASSERT_TRUE(job_->EnterLane(kLane).ok()) << "moved by the admission rule";
  EXPECT_EQ(Charged(), MiB(8));
}

TEST_F(CudaLaneTest, WhoWasPassedOverKeepsItsChunksUntilTheIterationEndsAndGetsNewOnes) {
  Alive({1});
  ASSERT_TRUE(Run());
  ASSERT_TRUE(job_->OpenLane());
  WriteAll();
  ASSERT_TRUE(job_->LeaveChunks(kLane).ok());  // what another member does
  EXPECT_TRUE(AliveIsExact());
  ASSERT_TRUE(job_->CloseLane().ok());
  EXPECT_FALSE(job_->OpenLane()) << "others are on the new chunks, and it has not joined them";
  ASSERT_TRUE(job_->EnterLane(kLane).ok());
  EXPECT_EQ(Charged(), MiB(6));
  EXPECT_EQ(job_->Report(0).used, MiB(4 + 2 + 6)) << "nothing is left of the old ones";
  EXPECT_TRUE(AliveIsExact());
  EXPECT_TRUE(job_->OpenLane());
}

TEST_F(CudaLaneTest, TheLimitCountsTheScratchOnTheLaneToo) {
  ASSERT_TRUE(Run());
  EXPECT_EQ(job_->SetLimit(0, MiB(10)), MiB(2)) << "4 MiB of its own and 8 of the lane";
  EXPECT_EQ(job_->SetLimit(0, MiB(12)), Bytes(0));
  cuda::Handle token = 0;
  const cuda::AllocationProperties properties;
  EXPECT_EQ(job_->pages().Create(&token, kPageSize, &properties, 0), cuda::kOutOfMemory);
  job_->OpenLane();
  WriteAll();
  Alive({3});
  EXPECT_TRUE(job_->CloseLane().ok()) << "what is alive has memory whatever the limit says";
  EXPECT_TRUE(AliveIsExact());
}

TEST_F(CudaLaneTest, ABoundaryWithAnyDriverCallFailingKeepsWhatIsAlive) {
  Sweep(
      [&] {
        if (!job_->EnterLane(kLane).ok()) return false;
        job_->OpenLane();
        return job_->CloseLane().ok();
      },
      [&](bool) { EXPECT_TRUE(AliveIsExact()); },
      [&] {
        // In turn pages enter, and leave with what was written to them.
        ASSERT_TRUE(job_->EnterLane(kLane).ok());
        job_->OpenLane();
        WriteAll();
        Alive(alive_.empty() ? std::vector<int>{0, 1, 3} : std::vector<int>{});
      });
}

TEST_F(CudaLaneTest, ATurnWithAnyDriverCallFailingBringsTheScratchBackAtLast) {
  ASSERT_TRUE(Run());
  job_->LeaveLane();
  Sweep([&] { return job_->EnterLane(kLane).ok(); },
        [&](bool worked) {
          // Where it could not join, the iteration has memory of its own.
          if (worked && job_->pages().Unmapped(0) == Bytes(0)) WriteAll();
          EXPECT_TRUE(AliveIsExact());
        },
        [&] { job_->LeaveLane(); });
}

/// The last one: the process's job is without lanes after it.
TEST_F(CudaLaneTest, AFrameworkThatCannotSayWhatIsAliveKeepsAllOfItPrivateFromThenOn) {
  ASSERT_TRUE(Run());
  EXPECT_EQ(OnLane(), MiB(8));
  job_->OpenLane();
  WriteAll();
  close_status_ = absl::InternalError("the snapshot has another form");
  EXPECT_TRUE(job_->CloseLane().ok());
  EXPECT_EQ(OnLane(), Bytes(0));
  EXPECT_TRUE(Exact());
  const size_t before = opened_.size();
  close_status_ = absl::OkStatus();
  ASSERT_TRUE(Run());
  EXPECT_EQ(opened_.size(), before);
  EXPECT_EQ(OnLane(), Bytes(0));
}

}  // namespace
}  // namespace tide::runtime

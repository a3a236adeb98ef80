// A job's device memory as a whole on two phantom devices: boundaries, suspension of all devices,
// forks, the exit, and every driver call failing at every position of each.
#include "runtime/cuda_job.h"

#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <numeric>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "phantom/control.h"
#include "shm/runtime_dir.h"
#include "shm/slot_table.h"

namespace tide::runtime {
namespace {

namespace cuda = pages::cuda;
constexpr size_t kMiB = size_t{1} << 20;
constexpr size_t kPageSize = 2 * kMiB;
constexpr int kDevices = 2;

/// The folders of this process: ledgers and spill file.
const std::string& Folder() {
  static const std::string& folder = *[] {
    std::string name = (std::filesystem::current_path() / "cuda-job-XXXXXX").string();
    auto* made = new std::string(mkdtemp(name.data()));
    const pid_t owner = getpid();
    static const auto remove = [owner, made] {
      std::error_code ignored;
      if (getpid() == owner) std::filesystem::remove_all(*made, ignored);
    };
    std::atexit([] { remove(); });
    return made;
  }();
  return folder;
}

/// As torch's allocator has it: an address range with pages behind it.
struct Segment {
  cuda::DevicePointer at = 0;
  int device = 0;
  std::vector<cuda::Handle> tokens;
  std::vector<uint32_t> values;
  size_t size() const { return tokens.size() * kPageSize; }
};

/// One job for all tests of the process, as there is.
class CudaJobTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    phantom::Configure(absl::StrCat("cuda-job-", getpid()), 256, kDevices);
    setenv("TIDE_CUDA_DRIVER", TIDE_PHANTOM_DRIVER, 1);
    setenv("TIDE_RUNTIME_DIR", Folder().c_str(), 1);
    setenv("TIDE_SPILL_DIR", Folder().c_str(), 1);
    setenv("TIDE_CUDA_SPARE_MAX", "0", 1);
    setenv("TIDE_NEED_WAIT_MS", "10", 1);
  }
  void SetUp() override {
    auto job = CudaJob::Start("job");
    ASSERT_TRUE(job.ok()) << job.status();
    job_ = *job;
    static const cuda::Driver& driver = *cuda::Driver::Open(TIDE_PHANTOM_DRIVER).value().release();
    driver_ = &driver;
    phantom_ = std::make_unique<phantom::Control>(driver);
    phantom_->SetHostNuma(true);
    CudaFramework framework;
    framework.capturing = [this] { return capturing_; };
    framework.flush = [this](int device) { return Flush(device); };
    framework.cold = [this] { return cold_; };
    job_->set_framework(std::move(framework));
    start_ = phantom_->figures();
    for (int device = 0; device < kDevices; ++device) Grow(device, 2 + device);
  }
  void TearDown() override {
    phantom_->DisarmFaults();
    EXPECT_TRUE(job_->pages().Validate().ok()) << job_->pages().Validate();
    for (Segment& segment : segments_) Shrink(segment);
    for (int device = 0; device < kDevices; ++device) {
      job_->SetLimit(device, Bytes(0));
      job_->pages().TrimSpares(device, Bytes(0));
      job_->AnswerOthers(device, job_->Report(device).asked);
      EXPECT_EQ(phantom_->ledger(device).used, 0u);
      EXPECT_EQ(job_->Report(device).used, Bytes(0)) << "the ledger is not back to zero";
      EXPECT_FALSE(job_->suspended(device));
    }
    EXPECT_EQ(phantom_->figures().handles, start_.handles);
    EXPECT_EQ(phantom_->figures().mappings, start_.mappings);
    job_->set_framework({});
  }

  Segment& Grow(int device, int count) {
    const cuda::ScopedContext context(*driver_, device);
    Segment segment;
    segment.device = device;
    const size_t size = count * kPageSize;
    EXPECT_EQ(driver_->calls().address_reserve(&segment.at, size, 0, 0, 0), 0);
    cuda::AllocationProperties properties;
    properties.location.id = device;
    for (int i = 0; i < count; ++i) {
      cuda::Handle token = 0;
      EXPECT_EQ(job_->pages().Create(&token, kPageSize, &properties, 0), 0);
      EXPECT_EQ(job_->pages().Map(segment.at + i * kPageSize, kPageSize, 0, token, 0), 0);
      segment.tokens.push_back(token);
    }
    cuda::AccessDescriptor access;
    access.location.id = device;
    EXPECT_EQ(job_->pages().SetAccess(segment.at, size, &access, 1), 0);
    segment.values.resize(size / sizeof(uint32_t));
    std::iota(segment.values.begin(), segment.values.end(), static_cast<uint32_t>(segment.at));
    EXPECT_EQ(driver_->calls().copy_to_device(segment.at, segment.values.data(), size), 0);
    segments_.push_back(std::move(segment));
    return segments_.back();
  }
  void Shrink(Segment& segment) {
    const cuda::ScopedContext context(*driver_, segment.device);
    for (size_t i = 0; i < segment.tokens.size(); ++i) {
      EXPECT_EQ(job_->pages().Unmap(segment.at + i * kPageSize, kPageSize), 0);
      EXPECT_EQ(job_->pages().Release(segment.tokens[i]), 0);
    }
    EXPECT_EQ(driver_->calls().address_free(segment.at, segment.size()), 0);
  }
  bool Exact() {
    for (const Segment& segment : segments_) {
      const cuda::ScopedContext context(*driver_, segment.device);
      std::vector<uint32_t> values(segment.values.size());
      if (driver_->calls().copy_to_host(values.data(), segment.at, segment.size()) != 0)
        return false;
      if (values != segment.values) return false;
    }
    return true;
  }
  absl::Status Flush(int device) {
    flushed_.push_back(device);
    return flush_status_;
  }
  /// Another process asks this job for memory.
  void Ask(int device, Bytes bytes) {
    const std::string path = job_->Report(device).table_path;
    auto file = shm::DeviceFile::Open(Folder(), path.substr(path.rfind("device-") + 7));
    ASSERT_TRUE(file.ok()) << file.status();
    for (int i = 0; i < shm::kSlotCount; ++i) {
      shm::JobSlot& slot = (*file)->table().slots[i];
      if (shm::IsLive(slot)) slot.reclaim_bytes.fetch_add(bytes.value());
    }
  }
  Bytes OnDevices() {
    Bytes sum;
    for (int i = 0; i < kDevices; ++i) sum += job_->pages().counts(i).device;
    return sum;
  }

  /// Runs `step` with the i-th driver call failing, for every i, until it makes fewer calls;
  /// `check` looks at what is left. A step that failed must succeed when it is repeated.
  void Sweep(const std::function<bool()>& step, const std::function<void(bool worked)>& check,
             const std::function<void()>& undo, int times = 1) {
    int failures = 0;
    for (int position = 0;; ++position) {
      ASSERT_LT(position, 1000) << "the step never ends";
      SCOPED_TRACE(::testing::Message() << "driver call " << position);
      const uint64_t before = phantom_->CallCount("*");
      phantom_->ArmFault("*", position, times, 999);
      const bool worked = step();
      const bool reached = phantom_->CallCount("*") - before > static_cast<uint64_t>(position);
      phantom_->DisarmFaults();
      ASSERT_TRUE(job_->pages().Validate().ok()) << job_->pages().Validate();
      check(worked);
      failures += worked ? 0 : 1;
      if (!worked) {
        ASSERT_TRUE(step());
        check(true);
      }
      undo();
      if (::testing::Test::HasFailure() || !reached) break;
    }
    EXPECT_GT(failures, 0) << "no fault was felt";
  }

  CudaJob* job_ = nullptr;
  const cuda::Driver* driver_ = nullptr;
  std::unique_ptr<phantom::Control> phantom_;
  std::vector<Segment> segments_;
  std::vector<pages::ColdRange> cold_;
  std::vector<int> flushed_;
  absl::Status flush_status_;
  bool capturing_ = false;
  phantom::Figures start_{};
};

TEST_F(CudaJobTest, ASuspensionEmptiesAllDevicesAfterAFlushAndAllValuesReturn) {
  const auto freed = job_->SuspendAll();
  ASSERT_TRUE(freed.ok()) << freed.status();
  EXPECT_EQ(*freed, MiB(2 * 2 + 2 * 3));
  EXPECT_THAT(flushed_, ::testing::ElementsAre(0, 1));
  EXPECT_EQ(job_->suspended_devices(), 2);
  EXPECT_EQ(phantom_->ledger(0).used + phantom_->ledger(1).used, 0u);
  const std::vector<CudaFigures> figures = job_->Figures();
  ASSERT_EQ(figures.size(), 2u);
  EXPECT_EQ(figures[1].away, MiB(6));
  EXPECT_EQ(figures[1].device, Bytes(0));
  ASSERT_TRUE(job_->ResumeAll().ok());
  EXPECT_EQ(job_->suspended_devices(), 0);
  EXPECT_TRUE(Exact());
}

TEST_F(CudaJobTest, PagesForWhichTheHostHasNoPinnedMemoryGoToTheFile) {
  phantom_->ArmFault("cuMemHostRegister", 1, 100, cuda::kOutOfMemory);
  ASSERT_TRUE(job_->SuspendAll().ok());
  phantom_->DisarmFaults();
  EXPECT_EQ(job_->pages().counts(0).host_copy, MiB(4));  // one piece of memory for both pages
  EXPECT_EQ(job_->pages().counts(1).file, MiB(6));
  ASSERT_TRUE(job_->ResumeAll().ok());
  EXPECT_TRUE(Exact());
}

TEST_F(CudaJobTest, WhenTheSecondDeviceFailsTheFirstIsBackAtOnce) {
  // Every unmapping after the first device's two fails: the copies of the second are not used.
  phantom_->ArmFault("cuMemUnmap", 2, 100, 999);
  EXPECT_FALSE(job_->SuspendAll().ok());
  EXPECT_EQ(job_->suspended_devices(), 0);
  phantom_->DisarmFaults();
  EXPECT_EQ(OnDevices(), MiB(10));
  EXPECT_TRUE(Exact());
}

TEST_F(CudaJobTest, WhatCanNeitherLeaveNorReturnLeavesTheJobSuspendedUntilAResume) {
  phantom_->ArmFault("cuMemUnmap", 1, 100, 999);
  phantom_->ArmFault("cuMemMap", 0, 100, 999);
  const auto freed = job_->SuspendAll();
  phantom_->DisarmFaults();
  EXPECT_THAT(std::string(freed.status().message()), ::testing::HasSubstr("stays suspended"));
  EXPECT_EQ(job_->suspended_devices(), 1);
  ASSERT_TRUE(job_->ResumeAll().ok());
  EXPECT_TRUE(Exact());
}

TEST_F(CudaJobTest, AResumeWithoutRoomLeavesAllPagesAwayAndMayBeRepeated) {
  ASSERT_TRUE(job_->SuspendAll().ok());
  job_->SetLimit(1, MiB(4));
  EXPECT_TRUE(absl::IsResourceExhausted(job_->ResumeAll()));
  EXPECT_EQ(job_->suspended_devices(), 2);
  EXPECT_EQ(OnDevices(), Bytes(0));
  job_->SetLimit(1, Bytes(0));
  ASSERT_TRUE(job_->ResumeAll().ok());
  EXPECT_TRUE(Exact());
}

TEST_F(CudaJobTest, AResumeAsksNotForPagesThatALimitKeepsInHostMemory) {
  // Once it did: a job that was paused under a limit could never go on.
  cold_ = {{segments_[1].at, MiB(6)}};
  ASSERT_EQ(job_->SetLimit(1, MiB(4)), MiB(2));
  ASSERT_TRUE(job_->MakeRoom(1, MiB(2)).ok());
  EXPECT_EQ(job_->pages().counts(1).host_mapped, MiB(2));
  ASSERT_TRUE(job_->SuspendAll().ok());
  ASSERT_TRUE(job_->ResumeAll().ok());
  EXPECT_EQ(job_->pages().counts(1).host_mapped, MiB(2));
  EXPECT_TRUE(Exact());
  job_->SetLimit(1, Bytes(0));
  job_->AtBoundary();
  EXPECT_EQ(job_->pages().counts(1).host_mapped, Bytes(0));
}

TEST_F(CudaJobTest, ABoundaryGivesOthersColdPagesAndTakesThemBackLater) {
  cold_ = {{segments_[1].at, MiB(4)}};
  Ask(1, MiB(4));
  const BoundaryResult result = job_->AtBoundary();
  EXPECT_EQ(result.asked, MiB(4));
  EXPECT_EQ(result.given, MiB(4));
  EXPECT_THAT(flushed_, ::testing::ElementsAre(1));
  EXPECT_EQ(job_->Report(1).asked, Bytes(0));
  EXPECT_TRUE(Exact());
  job_->AtBoundary();
  EXPECT_EQ(job_->pages().counts(1).host_mapped, Bytes(0));
  EXPECT_TRUE(Exact());
}

TEST_F(CudaJobTest, DuringACaptureNothingIsTouchedAndARequestWaits) {
  Ask(1, MiB(4));
  job_->AtBoundary(0);  // measured: the rest has no reason to call the driver
  capturing_ = true;
  const uint64_t before = phantom_->CallCount("*");
  EXPECT_EQ(job_->AtBoundary().given, Bytes(0));
  job_->FinishWork();
  EXPECT_TRUE(absl::IsUnavailable(job_->SuspendAll().status()));
  EXPECT_EQ(phantom_->CallCount("*"), before);
  EXPECT_TRUE(flushed_.empty());
  EXPECT_EQ(job_->Report(1).asked, MiB(4));
}

TEST_F(CudaJobTest, AFlushThatFailsIsAnErrorOfTheSuspensionAndNothingHasMoved) {
  flush_status_ = absl::InternalError("the framework says no");
  EXPECT_EQ(job_->SuspendAll().status(), flush_status_);
  EXPECT_EQ(OnDevices(), MiB(10));
  EXPECT_TRUE(Exact());
}

TEST_F(CudaJobTest, BeforeATurnPassesEachDeviceInUseIsWaitedFor) {
  const uint64_t before = phantom_->CallCount("cuCtxSynchronize");
  job_->FinishWork();
  EXPECT_EQ(phantom_->CallCount("cuCtxSynchronize") - before, 2u);
}

TEST_F(CudaJobTest, AForkedChildHasNoJobAndHearsThatTheDriverIsNotThere) {
  const TideCudaCall& create = job_->adapter_calls()[0];
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    using Create =
        cuda::Result(cuda::Handle*, size_t, const cuda::AllocationProperties*, unsigned long long);
    cuda::Handle token = 0;
    const cuda::AllocationProperties properties;
    const cuda::Result said =
        reinterpret_cast<Create*>(create.replacement)(&token, kPageSize, &properties, 0);
    const bool right = CudaJob::Current() == nullptr && said == cuda::kNotInitialized &&
                       absl::IsFailedPrecondition(CudaJob::Start("child").status());
    _exit(right ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(CudaJob::Current(), job_);
  EXPECT_TRUE(Exact());
}

TEST_F(CudaJobTest, WhatOthersHavePromisedIsWaitedFor) {
  const std::string path = job_->Report(0).table_path;
  auto file = shm::DeviceFile::Open(Folder(), path.substr(path.rfind("device-") + 7));
  ASSERT_TRUE(file.ok()) << file.status();
  const auto other = (*file)->Claim("other");
  ASSERT_TRUE(other.ok()) << other.status();
  // All that the other has was asked for by somebody before.
  const int64_t rest = static_cast<int64_t>(256 * kMiB) - MiB(4).value();
  (*file)->slot(*other).private_bytes = rest;
  (*file)->slot(*other).reclaim_bytes = rest;
  setenv("TIDE_NEED_WAIT_MS", "60000", 1);
  const Bytes capacity(static_cast<int64_t>(256 * kMiB));
  const uint64_t measured = phantom_->CallCount("cuMemGetInfo");
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  std::thread giver([&] {
    // Who waits measures again each time it is woken: then it is time to give.
    while (phantom_->CallCount("cuMemGetInfo") < measured + 3 &&
           std::chrono::steady_clock::now() < deadline) {
      (*file)->SetCapacity(capacity);
      std::this_thread::yield();
    }
    (*file)->slot(*other).private_bytes = 0;
    (*file)->SetCapacity(capacity);
  });
  Grow(0, 1);
  giver.join();
  setenv("TIDE_NEED_WAIT_MS", "10", 1);
  (*file)->slot(*other).reclaim_bytes = 0;
  (*file)->Free(*other);
  EXPECT_TRUE(Exact());
}

// ---- stepping aside while another job has the turn ----

TEST_F(CudaJobTest, WhoWaitsForItsTurnGivesAnyPageAndHasAllBackBeforeItRuns) {
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

TEST_F(CudaJobTest, WhoRunsGivesNoPageThatItNeeds) {
  Ask(1, MiB(4));
  EXPECT_EQ(job_->AtBoundary(CudaJob::Idle::kNo).given, Bytes(0));
  EXPECT_TRUE(Exact());
}

TEST_F(CudaJobTest, ALimitCountsWhatIsAsideSinceItComesBack) {
  Ask(1, MiB(6));
  job_->AtBoundary(CudaJob::Idle::kYes);
  EXPECT_EQ(job_->SetLimit(1, MiB(4)), MiB(2));
  job_->SetLimit(1, Bytes(0));
  ASSERT_TRUE(job_->ComeBack().ok());
}

TEST_F(CudaJobTest, ASuspensionMayEndWithThePagesAsideUntilTheTurn) {
  ASSERT_TRUE(job_->SuspendAll().ok());
  EXPECT_FALSE(job_->IsAside()) << "it is suspended, which is more";
  job_->LeaveSuspensionAside();
  EXPECT_EQ(job_->suspended_devices(), 0);
  EXPECT_TRUE(job_->IsAside());
  EXPECT_EQ(OnDevices(), Bytes(0));
  ASSERT_TRUE(job_->ComeBack().ok());
  EXPECT_TRUE(Exact());
}

TEST_F(CudaJobTest, WithoutRoomNobodyComesBackByHalves) {
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

TEST_F(CudaJobTest, SteppingAsideThatFailsAnywhereLosesNothing) {
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

TEST_F(CudaJobTest, ComingBackThatFailsAnywhereLosesNothing) {
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

TEST_F(CudaJobTest, ASuspensionThatFailsAnywhereLeavesAllPagesOnTheDevices) {
  Sweep([&] { return job_->SuspendAll().ok(); },
        [&](bool worked) {
          EXPECT_EQ(job_->suspended_devices(), worked ? 2 : 0);
          EXPECT_EQ(OnDevices(), worked ? Bytes(0) : MiB(10));
          if (!worked) {
            EXPECT_TRUE(Exact());
          }
        },
        [&] {
          ASSERT_TRUE(job_->ResumeAll().ok());
          EXPECT_TRUE(Exact());
        });
}

TEST_F(CudaJobTest, AResumeThatFailsAnywhereLeavesAllPagesAway) {
  ASSERT_TRUE(job_->SuspendAll().ok());
  Sweep([&] { return job_->ResumeAll().ok(); },
        [&](bool worked) {
          EXPECT_EQ(job_->suspended_devices(), worked ? 0 : 2);
          EXPECT_EQ(OnDevices(), worked ? MiB(10) : Bytes(0));
          if (worked) {
            EXPECT_TRUE(Exact());
          }
        },
        [&] { ASSERT_TRUE(job_->SuspendAll().ok()); });
  ASSERT_TRUE(job_->ResumeAll().ok());
}

TEST_F(CudaJobTest, ABoundaryThatFailsAnywhereLeavesAllValuesReadable) {
  cold_ = {{segments_[1].at, MiB(6)}};
  Sweep(
      [&] {
        Ask(1, MiB(4));
        return job_->AtBoundary().given >= MiB(4);
      },
      [&](bool) {
        EXPECT_TRUE(Exact());
        EXPECT_EQ(job_->Report(1).asked, Bytes(0)) << "who asked would wait for an answer";
      },
      [&] {
        ASSERT_TRUE(job_->Restore(1).ok());
        EXPECT_EQ(job_->pages().counts(1).host_mapped, Bytes(0));
      });
}

TEST_F(CudaJobTest, AReturnAtABoundaryThatFailsAnywhereLeavesAllValuesReadable) {
  cold_ = {{segments_[1].at, MiB(6)}};
  const auto away = [&] { return job_->pages().counts(1).host_mapped > Bytes(0); };
  ASSERT_TRUE(job_->MakeRoom(1, MiB(4)).ok());
  Sweep(
      [&] {
        job_->AtBoundary();
        return !away();
      },
      [&](bool) { EXPECT_TRUE(Exact()); }, [&] { ASSERT_TRUE(job_->MakeRoom(1, MiB(4)).ok()); });
}

/// Last of all: the slots are given back for good.
TEST_F(CudaJobTest, TheExitGivesTheSlotsBack) {
  job_->Retire();
  job_->Retire();
  for (int device = 0; device < kDevices; ++device) {
    const std::string path = job_->Report(device).table_path;
    auto file = shm::DeviceFile::Open(Folder(), path.substr(path.rfind("device-") + 7));
    ASSERT_TRUE(file.ok()) << file.status();
    for (int i = 0; i < shm::kSlotCount; ++i) {
      const shm::JobSlot& slot = (*file)->table().slots[i];
      EXPECT_TRUE(!shm::IsLive(slot) || shm::IsLeaving(slot)) << "slot " << i;
    }
  }
}

}  // namespace
}  // namespace tide::runtime

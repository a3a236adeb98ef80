// A job's device memory as a whole on two phantom devices: boundaries, suspension of all devices,
// forks, the exit, and every driver call failing at every position of each.
#include <sys/wait.h>

#include <thread>

#include "cuda_job_fixture.h"

namespace tide::runtime {
namespace {

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

TEST_F(CudaJobTest, ALimitThatMovesTakesColdPagesOffAndAGreaterOneBringsThemBack) {
  cold_ = {{segments_[1].at, MiB(4)}};
  const auto moved = job_->MoveLimit(1, MiB(2));
  ASSERT_TRUE(moved.ok()) << moved.status();
  EXPECT_EQ(*moved, MiB(4));
  EXPECT_EQ(job_->pages().counts(1).host_mapped, MiB(4));
  EXPECT_TRUE(Exact());
  const auto grown = job_->MoveLimit(1, MiB(4));
  ASSERT_TRUE(grown.ok()) << grown.status();
  EXPECT_EQ(job_->pages().counts(1).host_mapped, MiB(2));
  ASSERT_TRUE(job_->MoveLimit(1, Bytes(0)).ok());
  EXPECT_EQ(job_->pages().counts(1).host_mapped, Bytes(0));
  EXPECT_TRUE(Exact());
}

TEST_F(CudaJobTest, AnAllocationAtTheLimitHasColdPagesLeaveOnceTheCacheHasBeenGivenBack) {
  cold_ = {{segments_[1].at, MiB(4)}};
  job_->AtBoundary();
  ASSERT_EQ(job_->SetLimit(1, MiB(6)), Bytes(0));
  cuda::Handle tokens[2] = {0, 0};
  EXPECT_EQ(Create(1, &tokens[0]), cuda::kOutOfMemory) << "PyTorch gives back its cache";
  for (cuda::Handle& token : tokens) EXPECT_EQ(Create(1, &token), cuda::kSuccess);
  EXPECT_EQ(job_->pages().counts(1).host_mapped, MiB(4));
  EXPECT_EQ(job_->pages().counts(1).device, MiB(6));
  cuda::Handle one_more = 0;
  EXPECT_EQ(Create(1, &one_more), cuda::kOutOfMemory) << "nothing else is cold";
  EXPECT_TRUE(Exact());
  for (cuda::Handle token : tokens) EXPECT_EQ(job_->pages().Release(token), 0);
  job_->AtBoundary();
  EXPECT_EQ(job_->pages().counts(1).host_mapped, Bytes(0));
  EXPECT_TRUE(Exact());
}

TEST_F(CudaJobTest, AColdPageThatCannotLeaveInsideAnIterationIsStillWhole) {
  cold_ = {{segments_[1].at, MiB(2)}};
  cuda::Handle token = 0;
  const auto first_refusal = [&] {
    job_->AtBoundary();
    EXPECT_EQ(Create(1, &token), cuda::kOutOfMemory);
  };
  job_->SetLimit(1, MiB(6));
  first_refusal();
  Sweep([&] { return Create(1, &token) == cuda::kSuccess; },
        [&](bool worked) {
          EXPECT_TRUE(Exact());
          EXPECT_TRUE(!worked || job_->pages().counts(1).host_mapped == MiB(2));
        },
        [&] {
          EXPECT_EQ(job_->pages().Release(token), 0);
          first_refusal();
        });
}

TEST_F(CudaJobTest, ALimitBelowWhatIsInUseLeavesTheOldOneAndAllPages) {
  cold_ = {{segments_[1].at, MiB(2)}};
  ASSERT_TRUE(job_->MoveLimit(1, MiB(100)).ok());
  const absl::Status status = job_->MoveLimit(1, MiB(2)).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("2 MiB more than 2 MiB"));
  EXPECT_EQ(job_->Report(1).limit, MiB(100));
  EXPECT_EQ(job_->pages().counts(1).host_mapped, Bytes(0));
  EXPECT_TRUE(Exact());
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

// ---- a fault at every driver call ----

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

TEST_F(CudaJobTest, ALimitThatShrinksAndFailsAnywhereLeavesTheOldOneAndAllValuesReadable) {
  cold_ = {{segments_[1].at, MiB(6)}};
  Sweep([&] { return job_->MoveLimit(1, MiB(2)).ok(); },
        [&](bool worked) {
          EXPECT_EQ(job_->Report(1).limit, worked ? MiB(2) : Bytes(0));
          if (worked) {
            EXPECT_LE(job_->pages().counts(1).device, MiB(2));
          }
          EXPECT_TRUE(Exact());
        },
        [&] {
          ASSERT_TRUE(job_->MoveLimit(1, Bytes(0)).ok());
          EXPECT_EQ(job_->pages().counts(1).host_mapped, Bytes(0));
        });
}

TEST_F(CudaJobTest, ALimitThatGrowsHoldsThoughPagesCannotReturnAndABoundaryBringsThemBack) {
  // Once it was an error, and the limit had moved all the same.
  cold_ = {{segments_[1].at, MiB(6)}};
  const auto away = [&] { return job_->pages().counts(1).host_mapped; };
  ASSERT_TRUE(job_->MoveLimit(1, MiB(2)).ok());
  Sweep(
      [&] {
        EXPECT_TRUE(job_->MoveLimit(1, Bytes(0)).ok());
        return away() == Bytes(0);
      },
      [&](bool worked) {
        EXPECT_EQ(job_->Report(1).limit, Bytes(0));
        EXPECT_TRUE(Exact());
        if (!worked) {
          job_->AtBoundary();
          EXPECT_EQ(away(), Bytes(0));
        }
      },
      [&] { ASSERT_TRUE(job_->MoveLimit(1, MiB(2)).ok()); });
  ASSERT_TRUE(job_->MoveLimit(1, Bytes(0)).ok());
}

TEST_F(CudaJobTest, ASuspensionToTheFileThatFailsAnywhereLeavesAllPagesOnTheDevice) {
  Sweep([&] { return job_->Suspend(1, pages::DeviceTier::kFile).ok(); },
        [&](bool worked) {
          EXPECT_EQ(job_->suspended(1), worked);
          EXPECT_EQ(job_->pages().counts(1).device, worked ? Bytes(0) : MiB(6));
          if (!worked) {
            EXPECT_TRUE(Exact());
          }
        },
        [&] {
          ASSERT_TRUE(job_->Resume(1).ok());
          EXPECT_TRUE(Exact());
        });
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

// A job that has the driver checkpoint it, with helpers that do everything wrong.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "cuda_job_fixture.h"

namespace tide::runtime {
namespace {

/// A helper of the shell; its last argument is the verb.
std::vector<std::string> Shell(const std::string& freeze, const std::string& thaw) {
  return {"/bin/sh", "-c",
          absl::StrCat("case $2 in freeze) ", freeze, " ;; thaw) ", thaw, " ;; esac")};
}
constexpr char kDone[] = "echo begun; echo done";

class CheckpointHelperTest : public ::testing::Test {
 protected:
  absl::Status Freeze(const std::string& freeze, const std::string& thaw) {
    helper_.SetCommand(Shell(freeze, thaw));
    return helper_.Freeze("/lib/libcuda.so.1");
  }
  absl::Status Thaw(const std::string& thaw) {
    helper_.SetCommand(Shell("", thaw));
    return helper_.Thaw("/lib/libcuda.so.1");
  }
  CheckpointHelper helper_;
};

TEST_F(CheckpointHelperTest, FreezesAndThawsAndTellsTheHelperWhom) {
  const std::string check =
      absl::StrCat("[ $0 = /lib/libcuda.so.1 ] && [ $1 = ", getpid(), " ] && echo done");
  ASSERT_TRUE(Freeze(absl::StrCat("echo begun; ", check), check).ok());
  EXPECT_TRUE(helper_.frozen());
  EXPECT_TRUE(helper_.Freeze("").ok()) << "it is frozen already";
  EXPECT_FALSE(helper_.AwaitThaw(absl::Milliseconds(1)));
  std::thread waits([this] { helper_.AwaitThaw(); });
  EXPECT_TRUE(Thaw(check).ok());
  waits.join();
  EXPECT_FALSE(helper_.frozen());
  EXPECT_TRUE(Thaw("exit 1").ok()) << "there is nothing to thaw";
}

TEST_F(CheckpointHelperTest, WhatHasNotBegunOrHasBeenUndoneLeavesTheProcessRunning) {
  struct Case {
    std::string freeze, told;
  };
  const Case cases[] = {
      {"exit 3", ""},
      {"echo ModuleNotFoundError: ctypes", "ModuleNotFoundError: ctypes"},
      {"echo failed 3 cuInit: no device", "cuInit: no device"},
      {"echo begun; echo failed 801 Lock: not supported; echo running", "Lock: not supported"},
      {"echo noise; echo begun; kill -9 $$", "begun"},  // the next one finds it running
  };
  for (const Case& one : cases) {
    SCOPED_TRACE(one.freeze);
    const absl::Status status = Freeze(one.freeze, "echo done");
    EXPECT_TRUE(absl::IsInternal(status)) << status;
    EXPECT_EQ(status.message(), one.told);
    EXPECT_FALSE(helper_.frozen());
  }
  helper_.SetCommand({"/no/such/python"});
  EXPECT_TRUE(absl::IsInternal(helper_.Freeze("")));
  helper_.SetCommand({});
  EXPECT_TRUE(absl::IsFailedPrecondition(helper_.Freeze("")));
  EXPECT_FALSE(helper_.frozen());
}

TEST_F(CheckpointHelperTest, WhatCannotBeUndoneStaysFrozenUntilAThawWorks) {
  const absl::Status status = Freeze("echo begun; kill -9 $$", "echo failed 999 GetState");
  EXPECT_TRUE(absl::IsInternal(status)) << status;
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("GetState"));
  EXPECT_TRUE(helper_.frozen());
  EXPECT_TRUE(absl::IsResourceExhausted(Thaw("echo failed 2 Restore: out of memory")));
  EXPECT_TRUE(absl::IsInternal(Thaw("exit 1")));
  EXPECT_TRUE(helper_.frozen());
  EXPECT_TRUE(Thaw("echo done").ok());
  EXPECT_FALSE(helper_.frozen());
}

TEST_F(CheckpointHelperTest, TheHelperHasNeitherOurPreloadsNorOurGroup) {
  setenv("LD_PRELOAD", "/no/such/library.so", 1);
  EXPECT_TRUE(Freeze("echo begun; [ -z \"$LD_PRELOAD\" ] && echo done", "").ok());
  unsetenv("LD_PRELOAD");
  EXPECT_TRUE(
      Thaw(absl::StrCat("[ $(cut -d' ' -f5 /proc/$$/stat) -ne ", getpgrp(), " ] && echo done"))
          .ok());
}

class CudaDeepTest : public CudaJobTest {};

TEST_F(CudaDeepTest, OnlyASuspendedJobIsPausedDeeplyAndMovesNothingMeanwhile) {
  job_->SetCheckpointCommand(Shell(kDone, "echo done"));
  EXPECT_EQ(job_->PauseDeeply(), "nothing of it was on a device");
  EXPECT_FALSE(job_->frozen()) << "the program may go on";
  ASSERT_TRUE(job_->SuspendAll().ok());
  EXPECT_EQ(job_->PauseDeeply(), "");
  ASSERT_TRUE(job_->frozen());
  const uint64_t calls = phantom_->CallCount("*");
  Ask(0, MiB(2));
  EXPECT_EQ(job_->AtBoundary().given, Bytes(0));
  EXPECT_EQ(job_->Report(0).asked, Bytes(0)) << "what cannot be given is not owed";
  EXPECT_EQ(job_->Report(0).total, Bytes(0));
  EXPECT_FALSE(job_->MemoryTable(1).empty());
  EXPECT_FALSE(job_->Synchronize(0).ok());
  job_->FinishWork();
  EXPECT_TRUE(job_->SuspensionFits());
  EXPECT_FALSE(job_->MoveLimit(0, MiB(2)).ok());
  EXPECT_EQ(phantom_->CallCount("*"), calls) << "a call of the driver would not return";
  EXPECT_EQ(job_->DeepWords(), "its contexts are away");
  EXPECT_EQ(job_->PauseDeeply(), "") << "it is paused deeply already";
  ASSERT_TRUE(job_->ResumeAll().ok());
  EXPECT_FALSE(job_->frozen());
  EXPECT_TRUE(Exact());
}

TEST_F(CudaDeepTest, WhatTheFrameworkSaysAgainstItMakesItAnOrdinaryPause) {
  CudaFramework framework;
  framework.why_not_deep = [] { return std::string("of communicators"); };
  job_->set_framework(std::move(framework));
  job_->SetCheckpointCommand(Shell(kDone, "echo done"));
  ASSERT_TRUE(job_->SuspendAll().ok());
  EXPECT_EQ(job_->PauseDeeply(), "of communicators");
  EXPECT_EQ(job_->DeepWords(), "its contexts stayed: of communicators");
  EXPECT_FALSE(job_->frozen());
  EXPECT_TRUE(job_->ResumeAll().ok());
  EXPECT_TRUE(Exact());
}

TEST_F(CudaDeepTest, WithoutRoomForItsContextsAJobAsksOthersAndStaysAsItIs) {
  const std::string path = job_->Report(1).table_path;
  auto neighbours = shm::DeviceFile::Open(Folder(), path.substr(path.rfind("device-") + 7));
  ASSERT_TRUE(neighbours.ok()) << neighbours.status();
  const auto slot = (*neighbours)->Claim("neighbour");
  ASSERT_TRUE(slot.ok()) << slot.status();
  shm::JobSlot& neighbour = (*neighbours)->slot(*slot);
  neighbour.private_bytes = MiB(200).value();
  // The second time there is room, as if the neighbour had given some.
  const std::string room = absl::StrCat(Folder(), "/room");
  job_->SetCheckpointCommand(
      Shell(kDone, absl::StrCat("[ -e ", room, " ] && echo done || echo failed 2 Restore")));
  ASSERT_TRUE(job_->SuspendAll().ok());
  ASSERT_EQ(job_->PauseDeeply(), "");
  EXPECT_TRUE(absl::IsResourceExhausted(job_->ResumeAll()));
  EXPECT_TRUE(job_->frozen());
  EXPECT_EQ(job_->suspended_devices(), kDevices);
  EXPECT_EQ(neighbour.reclaim_bytes.load(), MiB(32).value());
  std::ofstream(room) << "here";
  EXPECT_TRUE(job_->ResumeAll().ok());
  EXPECT_TRUE(Exact());
  std::filesystem::remove(room);
  neighbour.private_bytes = 0;
  (*neighbours)->Free(*slot);
}

TEST_F(CudaDeepTest, WhenPythonDoesNotAnswerTheContextsComeBackAndThePagesStayAway) {
  job_->SetCheckpointCommand(Shell(kDone, "echo done"));
  ASSERT_TRUE(job_->SuspendAll().ok());
  ASSERT_EQ(job_->PauseDeeply(), "");
  job_->WantInterpreter(true);
  job_->AwaitThaw();
  job_->WantInterpreter(false);
  EXPECT_FALSE(job_->frozen());
  EXPECT_THAT(job_->DeepWords(), ::testing::HasSubstr("did not answer"));
  EXPECT_EQ(job_->suspended_devices(), kDevices);
  EXPECT_TRUE(job_->ResumeAll().ok());
  EXPECT_TRUE(Exact());
}

}  // namespace
}  // namespace tide::runtime

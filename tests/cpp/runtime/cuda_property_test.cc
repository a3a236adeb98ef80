// Random sequences of all that moves a job's device memory, with driver calls that fail among them:
// after each, when the job runs again, every byte is there and every count is right.
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>

#include "base/random.h"
#include "cuda_job_fixture.h"

namespace tide::runtime {
namespace {

constexpr int kSteps = 40;

/// A few seeds of all are a fair sample; the rest behind TIDE_TEST_PHANTOM=all.
int Seeds() {
  const char* const asked = std::getenv("TIDE_TEST_PHANTOM");
  return asked != nullptr && std::string(asked) == "all" ? 200 : 4;
}

class CudaPropertyTest : public CudaJobTest {
 protected:
  /// One of what may happen; a driver call of the moves may fail once.
  void Step(Random& random) {
    constexpr uint64_t kFirstMove = 3, kSteps = 9;
    const int device = static_cast<int>(random.Below(kDevices));
    ChooseCold(random);
    const uint64_t what = random.Below(kSteps);
    const bool faulty = what >= kFirstMove && random.Below(2) == 0;
    if (faulty) phantom_->ArmFault("*", static_cast<int>(random.Below(40)), 1, 999);
    switch (what) {
      case 0:
        job_->SetLimit(device, Bytes(0));  // an allocation over it is refused, as it should be
        if (segments_.size() < 8) Grow(device, 1 + static_cast<int>(random.Below(3)));
        break;
      case 1:
        if (segments_.size() > 3) Drop(random.Below(segments_.size()));
        break;
      case 2:
        Rewrite(segments_[random.Below(segments_.size())], random);
        break;
      case 3:
        Limit(device, MiB(static_cast<int64_t>(2 * random.Below(12))));
        break;
      case 4:
        Limit(device, Bytes(0));
        break;
      case 5:
        Ask(device, MiB(static_cast<int64_t>(1 + random.Below(12))));
        job_->AtBoundary(CudaJob::Idle::kNo);
        break;
      case 6:  // another's turn; one in two has a neighbour that dies with what it took
        Ask(device, MiB(static_cast<int64_t>(1 + random.Below(12))));
        job_->AtBoundary(CudaJob::Idle::kYes);
        if (random.Below(2) == 0) NeighbourThatIsKilled(device);
        break;
      case 7:
        job_->SuspendAll().IgnoreError();
        break;
      case 8:
        job_->Suspend(device, pages::DeviceTier::kFile).IgnoreError();
        break;
    }
  }

  /// The job runs: what was suspended or aside is back. No fault is armed.
  void Settle() {
    if (job_->suspended_devices() > 0 && !job_->ResumeAll().ok()) {
      for (int device = 0; device < kDevices; ++device) job_->SetLimit(device, Bytes(0));
      const absl::Status status = job_->ResumeAll();
      ASSERT_TRUE(status.ok()) << status;
    }
    if (job_->IsAside() && !job_->ComeBack().ok()) {
      for (int device = 0; device < kDevices; ++device) job_->SetLimit(device, Bytes(0));
      const absl::Status status = job_->ComeBack();
      ASSERT_TRUE(status.ok()) << status;
    }
    job_->AtBoundary();
  }

  void Check() {
    ASSERT_TRUE(job_->pages().Validate().ok()) << job_->pages().Validate();
    ASSERT_TRUE(Exact());
    for (int device = 0; device < kDevices; ++device) {
      Bytes held;
      for (const Segment& segment : segments_) {
        if (segment.device == device) held += Bytes(static_cast<int64_t>(segment.size()));
      }
      const pages::DeviceCounts counts = job_->pages().counts(device);
      EXPECT_EQ(counts.reserved(), held);
      EXPECT_EQ(counts.host_copy + counts.file, Bytes(0));
      EXPECT_EQ(phantom_->ledger(device).used, static_cast<uint64_t>(counts.device.value()));
      Open(device)->ReapDead(absl::Milliseconds(5));
      EXPECT_EQ(job_->Report(device).used, counts.device) << "by all jobs: there is one";
      EXPECT_EQ(job_->Report(device).asked, Bytes(0));
    }
  }

 private:
  void ChooseCold(Random& random) {
    cold_.clear();
    for (const Segment& segment : segments_) {
      if (random.Below(2) == 0)
        cold_.push_back({segment.at, Bytes(static_cast<int64_t>(segment.size()))});
    }
  }
  void Drop(size_t index) {
    Shrink(segments_[index]);
    segments_.erase(segments_.begin() + static_cast<int64_t>(index));
  }
  void Rewrite(Segment& segment, Random& random) {
    const cuda::ScopedContext context(*driver_, segment.device);
    for (uint32_t& value : segment.values) value = static_cast<uint32_t>(random.Next());
    EXPECT_EQ(driver_->calls().copy_to_device(segment.at, segment.values.data(), segment.size()),
              0);
  }
  void Limit(int device, Bytes limit) {
    const Bytes old = job_->Report(device).limit;
    const bool worked = job_->MoveLimit(device, limit).ok();
    EXPECT_EQ(job_->Report(device).limit, worked ? limit : old);
    if (worked && limit > Bytes(0)) {
      EXPECT_LE(job_->pages().counts(device).device, limit);
    }
  }
  std::unique_ptr<shm::DeviceFile> Open(int device) {
    const std::string path = job_->Report(device).table_path;
    auto file = shm::DeviceFile::Open(Folder(), path.substr(path.rfind("device-") + 7));
    EXPECT_TRUE(file.ok()) << file.status();
    return *std::move(file);
  }
  void NeighbourThatIsKilled(int device) {
    const std::unique_ptr<shm::DeviceFile> file = Open(device);
    int ready[2];
    ASSERT_EQ(pipe(ready), 0);
    const pid_t child = fork();
    if (child == 0) {
      const auto slot = file->Claim("killed");
      if (!slot.ok()) _exit(1);
      file->slot(*slot).private_bytes = file->Capacity().value() / 2;
      if (write(ready[1], "", 1) != 1) _exit(1);
      for (;;) pause();
    }
    char word = 0;
    ASSERT_EQ(read(ready[0], &word, 1), 1);
    close(ready[0]);
    close(ready[1]);
    kill(child, SIGKILL);
    ASSERT_EQ(waitpid(child, nullptr, 0), child);
  }
};

TEST_F(CudaPropertyTest, WhateverMovesAndFailsEveryByteIsThereWhenTheJobRunsAgain) {
  for (int seed = 1; seed <= Seeds(); ++seed) {
    Random random(static_cast<uint64_t>(seed));
    for (int step = 0; step < kSteps; ++step) {
      SCOPED_TRACE(::testing::Message() << "seed " << seed << ", step " << step);
      Settle();  // what reads and writes needs its memory
      Check();
      if (HasFatalFailure() || HasFailure()) return;
      Step(random);
      phantom_->DisarmFaults();
    }
    Settle();
    Check();
  }
  for (int device = 0; device < kDevices; ++device) job_->SetLimit(device, Bytes(0));
}

}  // namespace
}  // namespace tide::runtime

// A job with memory on two phantom devices, for the tests of its boundaries and moves.
#pragma once

#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "phantom/control.h"
#include "runtime/cuda_job.h"
#include "shm/runtime_dir.h"
#include "shm/slot_table.h"

namespace tide::runtime {

namespace cuda = pages::cuda;
constexpr size_t kMiB = size_t{1} << 20;
constexpr size_t kPageSize = 2 * kMiB;
constexpr int kDevices = 2;

/// The folders of this process: ledgers and spill file.
inline const std::string& Folder() {
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
    setenv("TIDE_CUDA_HEADROOM", "0", 1);
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
    job_->pages().pinned().Trim(Bytes(0));  // of an earlier test
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
    for (int i = 0; i < count; ++i) {
      cuda::Handle token = 0;
      EXPECT_EQ(Create(device, &token), 0);
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
  /// One page that an iteration asks for.
  cuda::Result Create(int device, cuda::Handle* token) {
    cuda::AllocationProperties properties;
    properties.location.id = device;
    return job_->pages().Create(token, kPageSize, &properties, 0);
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

  /// Another job has all of device 1 but `left`, as the ledger knows, until this ends.
  class Neighbour {
   public:
    Neighbour(const std::string& path, Bytes left) {
      auto opened = shm::DeviceFile::Open(Folder(), path.substr(path.rfind("device-") + 7));
      EXPECT_TRUE(opened.ok()) << opened.status();
      file_ = *std::move(opened);
      const auto slot = file_->Claim("neighbour");
      EXPECT_TRUE(slot.ok()) << slot.status();
      slot_ = *slot;
      file_->slot(slot_).private_bytes = (file_->Capacity() - left).value();
    }
    ~Neighbour() {
      file_->slot(slot_).private_bytes = 0;
      file_->Free(slot_);
    }

    std::atomic<int64_t>& asked() { return file_->slot(slot_).reclaim_bytes; }
    std::atomic<int64_t>& bytes() { return file_->slot(slot_).private_bytes; }

   private:
    std::unique_ptr<shm::DeviceFile> file_;
    SlotId slot_;
  };

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

}  // namespace tide::runtime

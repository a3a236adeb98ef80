// A pause that gives the process's contexts away as well: the driver's checkpoint, after our own
// pages have left.
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/options.h"
#include "runtime/cuda_job.h"

namespace tide::runtime {
namespace {

constexpr char kFirstCall[] = "cuCheckpointProcessLock";
// What contexts and libraries took on an H200 was 0.62 GiB (docs/guides/gpu.md).
constexpr Bytes kContextsMax = GiB(1);

/// Where the library of an address lies, since a helper finds it by no other name.
std::string LibraryOf(void* address) {
  Dl_info info{};
  if (address == nullptr || dladdr(address, &info) == 0 || info.dli_fname == nullptr) return "";
  return info.dli_fname;
}

/// CUDA's own exit handlers would wait for a thaw for ever.
void ThawAtExit(int code, void*) {
  CudaJob* const job = CudaJob::Current();
  if (job == nullptr || !job->frozen()) return;
  const absl::Status status = job->Thaw();
  if (status.ok()) return;
  Log(LogLevel::kWarning, absl::StrCat("event=frozen_at_exit status=\"", status.ToString(),
                                       "\" advice=\"exit handlers are left out\""));
  std::fflush(nullptr);
  _exit(code);
}

}  // namespace

bool CudaJob::OffersCheckpoint() const { return driver_->Symbol(kFirstCall) != nullptr; }

std::string CudaJob::WhyNotDeep() const {
  // The program may go on then, and use its contexts.
  if (suspended_devices() == 0) return "nothing of it was on a device";
  if (!OffersCheckpoint()) return "this driver has no checkpoint; CUDA 12.8 is the first with it";
  if (InLane() || chunk_server_ != nullptr) return "the job has scratch that a lane shares";
  for (int i = 0; i < device_count(); ++i) {
    for (const pages::DevicePage& page : pages_->Snapshot(i)) {
      if (page.pinned) return "memory of it is shared with another process";
    }
  }
  return framework_.why_not_deep ? framework_.why_not_deep() : "";
}

std::string CudaJob::PauseDeeply() {
  if (frozen()) return "";  // it is already
  std::string why = WhyNotDeep();
  if (why.empty()) {
    static const int registered = on_exit(&ThawAtExit, nullptr);
    static_cast<void>(registered);
    if (watch_.joinable()) watch_.join();  // of an earlier pause, which has ended
    const absl::Status status = checkpoint_.Freeze(LibraryOf(driver_->Symbol(kFirstCall)));
    if (!status.ok()) why = std::string(status.message());
  }
  if (frozen()) watch_ = std::thread([this] { WatchWhileFrozen(); });
  if (!why.empty() && suspended_devices() > 0) {
    Log(LogLevel::kWarning,
        absl::StrCat("event=not_deep status=\"", why,
                     "\" advice=\"the job is paused; its contexts stay on the devices\""));
  }
  absl::MutexLock lock(&deep_mu_);
  why_not_deep_ = why;
  return why;
}

void CudaJob::WantInterpreter(bool wanted) {
  interpreter_wanted_ns_.store(wanted ? RealClock().MonotonicNanos() : 0,
                               std::memory_order_relaxed);
}

void CudaJob::WatchWhileFrozen() {
  constexpr absl::Duration kLookAround = absl::Milliseconds(100);
  constexpr int64_t kPatienceNanos = 1'000'000'000;
  while (!checkpoint_.AwaitThaw(kLookAround)) {
    const int64_t since = interpreter_wanted_ns_.load(std::memory_order_relaxed);
    if (since == 0 || RealClock().MonotonicNanos() - since < kPatienceNanos) continue;
    const std::string why =
        "Python did not answer for a second; perhaps a thread of the program "
        "waits in a CUDA call and holds its lock";
    {
      absl::MutexLock lock(&deep_mu_);
      why_not_deep_ = why;
    }
    Log(LogLevel::kWarning, absl::StrCat("event=not_deep status=\"", why, "\""));
    if (const absl::Status status = Thaw(); !status.ok()) {
      Log(LogLevel::kWarning,
          absl::StrCat("event=still_frozen status=\"", status.ToString(), "\""));
    }
  }
}

std::string CudaJob::DeepWords() {
  absl::MutexLock lock(&deep_mu_);
  if (frozen() && why_not_deep_.empty()) return "its contexts are away";
  if (frozen())  // half of it was done, and could not be undone
    return absl::StrCat("its contexts may be away until its resume: ", why_not_deep_);
  return why_not_deep_.empty() ? "" : absl::StrCat("its contexts stayed: ", why_not_deep_);
}

absl::Status CudaJob::Thaw() {
  if (!frozen()) return absl::OkStatus();
  constexpr absl::Duration kLookAround = absl::Milliseconds(250);
  const std::string library = LibraryOf(driver_->Symbol(kFirstCall));
  const int64_t deadline =
      RealClock().MonotonicNanos() + IntOption("need.wait_ms") * int64_t{1'000'000};
  for (bool asked = false;; asked = true) {
    const shm::DeviceFile& first = *devices_.front()->file;
    const uint32_t seen = first.FreedWord();
    absl::Status status = checkpoint_.Thaw(library);
    if (!absl::IsResourceExhausted(status)) return status;
    // What a context needs is in nobody's ledger, and the driver cannot be asked.
    bool any = asked;
    for (const auto& device : devices_) {
      const Bytes need = std::min(kContextsMax, Bytes(device->file->Capacity().value() / 8));
      if (!asked && need > Bytes(0)) any |= AskOthers(*device, need, Whom::kAnybody);
    }
    if (!any || RealClock().MonotonicNanos() >= deadline) return status;
    devices_.front()->file->WaitFreed(seen, kLookAround);
  }
}

}  // namespace tide::runtime

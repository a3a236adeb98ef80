// Two jobs that do not fit a device together take turns on it: who waits for its turn gives pages
// to who has it, whatever is on them, and has all of them back before its next iteration.
#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "runtime/cuda_job.h"

namespace tide::runtime {

using pages::DeviceTier;

Bytes CudaJob::StepAside(int index, Bytes need) {
  const int64_t begin = RealClock().MonotonicNanos();
  const int64_t timed = clock_->MonotonicNanos();
  const pages::DeviceCounts before = pages_->counts(index);
  const Bytes held = pages_->pinned().held();
  std::vector<Leaving> chosen = MayLeave(index);
  if (chosen.empty()) return Bytes(0);
  // What costs nothing first.
  std::stable_partition(chosen.begin(), chosen.end(),
                        [](const Leaving& one) { return one.unwanted; });
  Bytes bytes, copied;
  size_t count = 0;
  for (; count < chosen.size() && bytes < need; ++count) {
    bytes += chosen[count].page.size;
    if (!chosen[count].unwanted) copied += chosen[count].page.size;
  }
  chosen.resize(count);
  const DeviceTier to = PrepareHost(copied);
  for (const Leaving& leaving : chosen) {
    const absl::Status status = Leave(leaving, to);
    if (status.ok()) continue;
    Log(LogLevel::kWarning,
        absl::StrCat("event=not_aside device=", index, " status=\"", status.ToString(), "\""));
    break;
  }
  pages_->TrimSpares(index, Bytes(0));
  leave_ns_ = RealClock().MonotonicNanos() - begin;
  NoteLeft(index, before, held, timed);
  return before.device - pages_->counts(index).device;
}

absl::Status CudaJob::ComeBack() {
  TIDE_RETURN_IF_ERROR(Thaw());
  const int64_t begin = RealClock().MonotonicNanos();
  bool moved = false;
  for (int i = 0; i < device_count(); ++i) {
    if (devices_[i]->suspended || Aside(i) == Bytes(0)) continue;
    moved = true;
    TIDE_RETURN_IF_ERROR(Return(i, Idle::kYes));
  }
  for (int i = 0; i < device_count(); ++i) EndPrefetch(i);
  if (moved) return_ns_ = RealClock().MonotonicNanos() - begin;
  // Those of a pause that has ended without its pages (LeaveSuspensionAside).
  return suspended_devices() == 0 ? ReturnCommunicators() : absl::OkStatus();
}

void CudaJob::LeaveSuspensionAside() {
  for (const auto& device : devices_) device->suspended = false;
}

bool CudaJob::SuspensionFits() const {
  for (int i = 0; i < device_count(); ++i) {
    const shm::DeviceFile& file = *devices_[i]->file;
    const Bytes capacity = file.Capacity();
    if (devices_[i]->suspended && capacity > Bytes(0) && file.Used() + Aside(i) > capacity)
      return false;
  }
  return true;
}

Bytes CudaJob::Aside(int index) const {
  const pages::DeviceCounts counts = pages_->counts(index);
  return counts.host_copy + counts.file + counts.dropped -
         counts.room;  // what has its room comes by itself
}

bool CudaJob::IsAside() const {
  for (int i = 0; i < device_count(); ++i) {
    if (!devices_[i]->suspended && Aside(i) > Bytes(0)) return true;
  }
  return false;
}

int64_t CudaJob::MoveNanos() { return std::exchange(leave_ns_, 0) + std::exchange(return_ns_, 0); }

}  // namespace tide::runtime

// How pages come back to a device: all that an iteration may touch before it begins, and what it
// touches last, where the framework names that, while it runs.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "base/status.h"
#include "runtime/cuda_job.h"

namespace tide::runtime {

using pages::DeviceTier;
namespace cuda = pages::cuda;

absl::Status CudaJob::LeaveCommunicators() {
  if (communicators_away_ || !framework_.communicators) return absl::OkStatus();
  if (Capturing()) return absl::OkStatus();  // the suspension itself is refused
  // What they still do must be done: their memory is read by it.
  for (int i = 0; i < device_count(); ++i) {
    if (pages_->counts(i).creates > 0) TIDE_RETURN_IF_ERROR(Synchronize(i));
  }
  TIDE_RETURN_IF_ERROR(framework_.communicators(/*away=*/true));
  communicators_away_ = true;
  return absl::OkStatus();
}

absl::Status CudaJob::ReturnCommunicators() {
  if (!communicators_away_) return absl::OkStatus();
  TIDE_RETURN_IF_ERROR(framework_.communicators(/*away=*/false));
  communicators_away_ = false;
  return absl::OkStatus();
}

void CudaJob::BeforeUse(const pages::ColdRange& range) {
  touches_.Touch(range.at);
  const absl::Status status = late_->Await(range);
  if (status.ok()) return;
  Log(LogLevel::kWarning,
      absl::StrCat("event=late_return_failed status=\"", status.ToString(), "\""));
}

void CudaJob::EndForward() {
  if (!touches_.EndForward()) return;
  for (const auto& device : devices_) {
    // What fails is tried again by what uses it.
    for (const pages::ColdRange& layer : device->late_layers) late_->Await(layer).IgnoreError();
  }
}

void CudaJob::StopWatching() {
  if (!std::exchange(watches_, false)) return;
  touches_.Forget();
  framework_.watch(false);
}

std::vector<pages::DevicePage> CudaJob::Away(int index, bool dropped) const {
  // Pages in mapped host memory were there before the suspension; a boundary brings them back.
  std::vector<pages::DevicePage> away;
  for (const pages::DevicePage& page : pages_->Snapshot(index)) {
    const bool kept = page.tier == DeviceTier::kHostCopy || page.tier == DeviceTier::kFile;
    const bool wanted = dropped ? page.tier == DeviceTier::kDropped : kept;
    if (wanted && !page.coming) away.push_back(page);
  }
  return away;
}

absl::Status CudaJob::Return(int index, Idle idle) {
  const int64_t begin = clock_->MonotonicNanos() - waited_ns_;  // waits that come are left out
  const pages::DeviceCounts before = pages_->counts(index);
  std::vector<pages::DevicePage> away = Away(index);
  const std::vector<pages::DevicePage> dropped = Away(index, /*dropped=*/true);
  std::vector<cuda::Handle> tokens;
  const auto layers = framework_.layers ? framework_.layers() : std::vector<pages::ColdRange>();
  Device& device = *devices_[index];
  device.late_layers = touches_.Ordered(layers);
  size_t late =
      pages::PlanReturn(&away, device.late_layers,
                        framework_.late ? framework_.late() : std::vector<pages::ColdRange>());
  // Never late: what fills them in again may be anything.
  away.insert(away.begin() + static_cast<std::ptrdiff_t>(late), dropped.begin(), dropped.end());
  late += dropped.size();
  for (const pages::DevicePage& page : away) tokens.push_back(page.token);
  const absl::Status status = PromoteAll(index, tokens, idle, late);
  if (status.ok()) {
    KeepPinned();
    NoteReturned(index, before, begin + waited_ns_);
    keep_pinned_later_ = late < tokens.size();
    if (!layers.empty()) {  // before anything is late
      touches_.Watch(layers);
      if (!std::exchange(watches_, true)) framework_.watch(true);
    }
    late_->Begin({away.begin() + static_cast<std::ptrdiff_t>(late), away.end()});
    return status;
  }
  for (size_t i = late; i < tokens.size(); ++i) pages_->LetRoomGo(tokens[i]);
  // Half a job on the device helps nobody: two of them could wait for each other for ever.
  for (const pages::DevicePage& page : away)
    DemoteForSuspension(page.token, page.tier).IgnoreError();
  pages_->TrimSpares(index, Bytes(0));
  return status;
}

absl::Status CudaJob::PromoteAll(int index, const std::vector<cuda::Handle>& tokens, Idle idle,
                                 size_t late) {
  constexpr int kRefusalsMax = 8;
  absl::Status first_error;
  int refusals = 0;
  for (size_t i = 0; i < tokens.size();) {
    if (i == 0 || refusals > 0) {
      if (!MakeSureOfRoom(index, idle) && idle == Idle::kYes) {
        return absl::ResourceExhaustedError(
            absl::StrCat("others have memory of device ", index, " that this job needs"));
      }
    }
    const absl::Status status = i < late ? pages_->Promote(tokens[i]) : pages_->HoldRoom(tokens[i]);
    // What is outside was measured while others moved, or grew since: to begin again would move all
    // of it twice.
    if (absl::IsResourceExhausted(status) && ++refusals <= kRefusalsMax) {
      absl::SleepFor(absl::Milliseconds(refusals));
      continue;
    }
    ++i;
    // FailedPrecondition: it is on the device already.
    if (!status.ok() && !absl::IsFailedPrecondition(status)) first_error.Update(status);
    if (absl::IsResourceExhausted(first_error)) break;  // the others will not fit either
  }
  return first_error;
}

bool CudaJob::MakeSureOfRoom(int index, Idle idle) {
  Device& device = *devices_[index];
  const Bytes need = Aside(index);
  const Bytes capacity = device.file->Capacity();
  if (capacity <= Bytes(0) || device.file->Used() + need <= capacity) return true;
  const int64_t begin = clock_->MonotonicNanos();
  const bool given = AskAndWait(index, need, idle);
  waited_ns_ += clock_->MonotonicNanos() - begin;
  return given;
}

}  // namespace tide::runtime

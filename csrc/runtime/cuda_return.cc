// How pages come back to a device: all that an iteration may touch before it begins, and what it
// touches last, where the framework names that, while it runs.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
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

size_t CudaJob::PutLateLast(std::vector<pages::DevicePage>* away) const {
  const auto ranges = framework_.late ? framework_.late() : std::vector<pages::ColdRange>();
  if (ranges.empty()) return away->size();
  std::vector<bool> late(away->size());
  for (size_t index : pages::PagesWithin(*away, ranges)) late[index] = true;
  std::vector<pages::DevicePage> first, last;
  for (size_t i = 0; i < away->size(); ++i) (late[i] ? last : first).push_back((*away)[i]);
  const size_t count = first.size();
  first.insert(first.end(), last.begin(), last.end());
  *away = std::move(first);
  return count;
}

absl::Status CudaJob::Return(int index, Idle idle) {
  // Pages in mapped host memory were there before the suspension; a boundary brings them back.
  std::vector<pages::DevicePage> away;
  std::vector<cuda::Handle> tokens;
  for (const pages::DevicePage& page : pages_->Snapshot(index)) {
    if (page.tier != DeviceTier::kHostCopy && page.tier != DeviceTier::kFile) continue;
    if (!page.coming) away.push_back(page);
  }
  const size_t late = PutLateLast(&away);
  for (const pages::DevicePage& page : away) tokens.push_back(page.token);
  const absl::Status status = PromoteAll(index, tokens, idle, late);
  if (status.ok()) {
    KeepPinned();
    keep_pinned_later_ = late < tokens.size();
    late_->Begin({tokens.begin() + static_cast<std::ptrdiff_t>(late), tokens.end()});
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
  return AskAndWait(index, need, idle);
}

}  // namespace tide::runtime

// What a job's device memory does between two iterations: answers others, takes back what fits,
// leaves and returns as a whole.
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "runtime/cuda_job.h"
#include "shm/slot_table.h"

namespace tide::runtime {
namespace {

using pages::DeviceTier;

// What is outside of all ledgers changes when a process comes or goes.
constexpr int64_t kMeasureNanos = 1'000'000'000;

void LogFailure(absl::string_view event, int device, const absl::Status& status) {
  Log(LogLevel::kWarning,
      absl::StrCat("event=", event, " device=", device, " status=\"", status.ToString(), "\""));
}

}  // namespace

absl::Status CudaJob::PrepareToMove(int device) {
  if (Capturing()) {
    return absl::UnavailableError("a CUDA graph is being captured, and pages cannot move now");
  }
  TIDE_RETURN_IF_ERROR(FinishReturn());
  TIDE_RETURN_IF_ERROR(Synchronize(device));
  return Flush(device);
}

absl::StatusOr<ShrinkResult> CudaJob::MakeRoom(int device, Bytes need) {
  const Bytes before = pages_->counts(device).device;
  TIDE_RETURN_IF_ERROR(PrepareToMove(device));
  ShrinkResult result;
  result.moved = before - pages_->counts(device).device;
  result.reason = "PyTorch's cache";
  if (need <= result.moved) return result;
  const std::vector<pages::ColdRange> cold =
      framework_.cold ? framework_.cold() : std::vector<pages::ColdRange>();
  const Bytes flushed = result.moved;
  result = Shrink(device, need - flushed, cold, /*any=*/false);
  result.moved += flushed;
  if (result.reason.empty()) result.reason = "PyTorch's cache and spare pages";
  return result;
}

absl::StatusOr<Bytes> CudaJob::MoveLimit(int index, Bytes limit) {
  const Bytes old = devices_[index]->account->limit();
  const Bytes over = SetLimit(index, limit);
  if (over == Bytes(0)) {
    if (devices_[index]->suspended || Capturing()) return Bytes(0);  // a boundary brings back
    absl::Status status = Synchronize(index);
    if (status.ok()) status = Restore(index).status();
    // The limit has moved all the same: the next boundary tries again.
    if (!status.ok()) LogFailure("not_restored", index, status);
    return Bytes(0);
  }
  absl::StatusOr<ShrinkResult> room = ShrinkResult{Bytes(0), over, "the job is paused"};
  if (!devices_[index]->suspended) room = MakeRoom(index, over);
  if (room.ok() && room->short_by == Bytes(0)) return room->moved;
  SetLimit(index, old);
  TIDE_RETURN_IF_ERROR(room.status());
  if (!devices_[index]->suspended) Restore(index).IgnoreError();  // the next boundary tries again
  return absl::FailedPreconditionError(absl::StrCat(
      FormatBytes(room->short_by), " more than ", FormatBytes(limit), " are in use (",
      room->reason.empty() ? "no page is cold" : room->reason, "); the old limit stays"));
}

BoundaryResult CudaJob::AtBoundary(int index, Idle idle) {
  BoundaryResult result;
  Device& device = *devices_[index];
  result.asked = Asked(index);
  if (device.suspended || frozen()) {
    AnswerOthers(index, result.asked);  // there is nothing left to give
    return result;
  }
  // An iteration without an optimizer's step: nobody has waited for what comes late.
  if (const absl::Status late = FinishReturn(); !late.ok()) LogFailure("not_back", index, late);
  StopWatching();
  if (std::exchange(keep_pinned_later_, false)) KeepPinned();
  const pages::DeviceCounts counts = pages_->counts(index);
  if (counts.creates == 0 && result.asked == Bytes(0)) return result;  // not in use
  RememberCold(index);
  MeasureNowAndThen(index);
  if (result.asked > Bytes(0)) {
    device.ahead.looked = false;  // who has asked takes what it gets first
    device.ahead.over |= device.ahead.brought > Bytes(0);
    const auto room = counts.creates > 0 ? MakeRoom(index, result.asked) : ShrinkResult();
    if (absl::IsUnavailable(room.status())) return result;
    if (room.ok()) {
      result.given = room->moved;
      if (result.given < result.asked) result.given += GiveLane(index);
      if (idle == Idle::kYes && result.given < result.asked) {
        result.given += StepAside(index, result.asked - result.given);
      }
    } else {
      LogFailure("no_room_made", index, room.status());
    }
    AnswerOthers(index, result.asked);
  } else if (counts.host_mapped > Bytes(0) && idle == Idle::kNo && !Capturing()) {
    absl::Status status = Synchronize(index);
    if (status.ok()) status = Restore(index).status();
    if (!status.ok()) LogFailure("not_restored", index, status);
  }
  return result;
}

void CudaJob::RememberCold(int index) {
  Device& device = *devices_[index];
  const bool refused = device.refused.exchange(false, std::memory_order_relaxed);
  // Nothing has been asked of the driver since: what was cold is where it was.
  const int64_t creates = pages_->counts(index).creates;
  const bool same = std::exchange(device.cold_creates, creates) == creates && !refused;
  if (!same) LookUpCold();
}

void CudaJob::LookUpCold() {
  if (!framework_.cold) return;
  std::vector<pages::ColdRange> cold = framework_.cold();
  absl::MutexLock lock(&cold_mu_);
  cold_ = std::move(cold);
}

bool CudaJob::MoveColdNow(int index, Bytes need) {
  Device& device = *devices_[index];
  if (!device.refused.exchange(true, std::memory_order_relaxed)) return false;
  std::vector<pages::ColdRange> cold;
  {
    absl::MutexLock lock(&cold_mu_);
    cold = cold_;
  }
  if (cold.empty() || device.suspended) return false;
  // During a capture the driver refuses to wait.
  if (!FinishReturn().ok() || !Synchronize(index).ok()) return false;
  return Shrink(index, need, cold, /*any=*/false).moved >= need;
}

BoundaryResult CudaJob::AtBoundary(Idle idle) {
  BoundaryResult sum;
  for (int i = 0; i < device_count(); ++i) {
    const BoundaryResult one = AtBoundary(i, idle);
    sum.asked += one.asked;
    sum.given += one.given;
  }
  return sum;
}

void CudaJob::MeasureNowAndThen(int index) {
  Device& device = *devices_[index];
  const int64_t now = RealClock().MonotonicNanos();
  const bool known = device.file->Capacity() > Bytes(0);
  if ((known && now - device.measured_ns < kMeasureNanos) || Capturing()) return;
  device.measured_ns = now;
  AskForCached(index);
  CudaReport report;
  MeasureOutside(index, &report);
}

absl::StatusOr<Bytes> CudaJob::SuspendAll() {
  Bytes freed;
  std::vector<int> done;
  for (int i = 0; i < device_count(); ++i) {
    if (devices_[i]->suspended || pages_->counts(i).creates == 0) continue;
    const Bytes before = pages_->counts(i).device;
    absl::Status status = done.empty() ? LeaveCommunicators() : absl::OkStatus();
    if (status.ok()) status = PrepareToMove(i);
    if (status.ok() && LaneIsOpen(i))
      status = absl::UnavailableError("the scratch of its last iteration is in use still");
    if (status.ok()) status = Suspend(i, DeviceTier::kHostCopy).status();
    if (status.ok()) {
      done.push_back(i);
      freed += GiveLane(i);
      freed += before - pages_->counts(i).device;
      continue;
    }
    for (int other : done) {
      if (const absl::Status back = Resume(other); !back.ok()) LogFailure("not_back", other, back);
    }
    if (const absl::Status back = ReturnCommunicators(); !back.ok()) {
      LogFailure("communicators_not_back", i, back);
    }
    return status;
  }
  return freed;
}

absl::Status CudaJob::ResumeAll() {
  TIDE_RETURN_IF_ERROR(Thaw());
  std::vector<int> done;
  absl::Status status;
  for (int i = 0; i < device_count() && status.ok(); ++i) {
    if (!devices_[i]->suspended) continue;
    status = Resume(i);
    if (status.ok()) done.push_back(i);
  }
  if (status.ok()) status = ReturnCommunicators();
  if (status.ok()) return status;
  for (int other : done) {
    const auto away = Suspend(other, DeviceTier::kHostCopy);
    if (!away.ok()) LogFailure("not_away_again", other, away.status());
  }
  return status;
}

void CudaJob::FinishWork() {
  if (frozen() || !HoldsMemory() || Capturing()) return;  // what is captured does not run yet
  for (int i = 0; i < device_count(); ++i) {
    if (pages_->counts(i).creates == 0) continue;
    if (const absl::Status status = Synchronize(i); !status.ok())
      LogFailure("unfinished", i, status);
  }
}

void CudaJob::Retire() {
  if (const absl::Status status = Thaw(); !status.ok()) LogFailure("still_frozen", 0, status);
  late_->Stop();
  LeaveLane();
  for (const auto& device : devices_) {
    // An iteration that never ended has chunks until the process is dead: they count as its own.
    if (device->lane != nullptr && device->lane->open())
      device->account->Force(shm::OwnChunkBytes(device->file->table(), device->slot));
  }
  if (!InLane()) chunk_server_.reset();  // else the socket goes when another process starts one
  for (const auto& device : devices_) device->file->Retire(device->slot);
}

bool CudaJob::HoldsMemory() const {
  for (int i = 0; i < device_count(); ++i) {
    if (pages_->counts(i).reserved() > Bytes(0)) return true;
  }
  return false;
}

int CudaJob::suspended_devices() const {
  int count = 0;
  for (const auto& device : devices_) count += device->suspended ? 1 : 0;
  return count;
}

std::vector<CudaFigures> CudaJob::Figures() const {
  std::vector<CudaFigures> all;
  if (!framework_.flush) return all;  // the hook was refused: nothing of the job's is here
  for (int i = 0; i < device_count(); ++i) {
    const pages::DeviceCounts counts = pages_->counts(i);
    if (counts.creates == 0) continue;
    CudaFigures figures;
    figures.index = i;
    figures.name = devices_[i]->name;
    figures.limit = devices_[i]->account->limit();
    figures.device = counts.device;
    figures.host_mapped = counts.host_mapped;
    figures.away = counts.host_copy + counts.file + counts.dropped;
    const Predicted predicted = Predict(i);
    figures.predicted_suspend_s = predicted.suspend_s;
    figures.predicted_resume_s = predicted.resume_s;
    all.push_back(std::move(figures));
  }
  return all;
}

}  // namespace tide::runtime

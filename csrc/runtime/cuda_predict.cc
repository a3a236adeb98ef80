// What the next suspension of a device and the return from it will take, from what moves took.
#include <algorithm>

#include "base/status.h"
#include "runtime/cuda_job.h"

namespace tide::runtime {
namespace {

Bytes Distance(Bytes one, Bytes other) { return one > other ? one - other : other - one; }

}  // namespace

MoveWork CudaJob::WorkOf(const pages::DeviceCounts& before, const pages::DeviceCounts& now) {
  return {.pinned = Distance(now.host_copy, before.host_copy),
          .file = Distance(now.file, before.file)};
}

void CudaJob::AskForCached(int index) {
  Device& device = *devices_[index];
  if (!framework_.cached || device.suspended || frozen()) return;
  device.cached_bytes.store(framework_.cached(index).value(), std::memory_order_relaxed);
}

absl::Status CudaJob::Flush(int index) {
  if (!framework_.flush) return absl::OkStatus();
  Device& device = *devices_[index];
  const int64_t begin = clock_->MonotonicNanos();
  const Bytes before = pages_->counts(index).device;
  TIDE_RETURN_IF_ERROR(framework_.flush(index));
  device.cached_bytes.store(0, std::memory_order_relaxed);
  device.flushing.Note({.pinned = before - pages_->counts(index).device}, SecondsSince(begin));
  return absl::OkStatus();
}

void CudaJob::NoteLeft(int index, const pages::DeviceCounts& before, Bytes held, int64_t begin) {
  MoveWork work = WorkOf(before, pages_->counts(index));
  work.made = std::max(pages_->pinned().held() - held, Bytes(0));
  const Bytes dropped = pages_->counts(index).dropped - before.dropped;
  devices_[index]->dropped_bytes.store(dropped.value(), std::memory_order_relaxed);
  devices_[index]->leaving.Note(work, SecondsSince(begin));
}

void CudaJob::NoteReturned(int index, const pages::DeviceCounts& before, int64_t begin) {
  Device& device = *devices_[index];
  const MoveWork work = WorkOf(before, pages_->counts(index));
  device.returning.Note(work, SecondsSince(begin));
  const Bytes away = before.host_copy + before.file - before.room;
  if (away > Bytes(0)) {
    device.early_share.store(
        std::min(static_cast<double>(work.total().value()) / static_cast<double>(away.value()),
                 1.0),
        std::memory_order_relaxed);
  }
}

double CudaJob::SecondsSince(int64_t begin) const {
  return static_cast<double>(clock_->MonotonicNanos() - begin) * 1e-9;
}

Bytes CudaJob::PinnedFree() const {
  const pages::PinnedPool& pool = pages_->pinned();
  return std::max(pool.held() - pool.used(), Bytes(0));
}

CudaJob::Predicted CudaJob::Predict(int index, Bytes* pinned_free) const {
  const Device& device = *devices_[index];
  const pages::DeviceCounts counts = pages_->counts(index);
  const bool suspended = device.suspended;
  // What the framework caches may be on a lane's scratch, which does not count here.
  const Bytes cached =
      std::clamp(Bytes(device.cached_bytes.load(std::memory_order_relaxed)) - counts.lane, Bytes(0),
                 std::max(counts.device - counts.spare - counts.room, Bytes(0)));
  // Pages on their way are back before anything leaves; all others only where the whole device was
  // suspended, whose next suspension comes after a resume. Their copies make room then.
  Bytes leaving = std::max(counts.device - counts.spare - cached, Bytes(0));
  if (suspended) leaving += Aside(index);
  // As many as last time need no copy: the program's tags are not asked for a guess.
  leaving -= std::min(leaving, Bytes(device.dropped_bytes.load(std::memory_order_relaxed)));
  *pinned_free += suspended ? counts.host_copy : std::min(counts.room, counts.host_copy);
  const bool to_file = device.leaves_to_file.load(std::memory_order_relaxed);
  MoveWork out;
  (to_file ? out.file : out.pinned) = leaving;
  out.made = std::max(out.pinned - *pinned_free, Bytes(0));
  *pinned_free = std::max(*pinned_free - out.pinned, Bytes(0));
  MoveWork back = {.pinned = counts.host_copy, .file = counts.file};
  if (!suspended) {
    back.pinned += out.pinned - std::min(counts.room, counts.host_copy);
    back.file += out.file;
  }
  const double early = device.early_share.load(std::memory_order_relaxed);
  for (Bytes* part : {&back.pinned, &back.file})
    *part = Bytes(static_cast<int64_t>(static_cast<double>(part->value()) * early));
  return {.suspend_s = device.leaving.Predict(out) + device.flushing.Predict({.pinned = cached}),
          .resume_s = device.returning.Predict(back)};
}

CudaJob::Predicted CudaJob::Predict(int index) const {
  Bytes pinned_free = PinnedFree();
  return Predict(index, &pinned_free);
}

CudaJob::Predicted CudaJob::Predict() const {
  Bytes pinned_free = PinnedFree();
  Predicted sum;
  for (int i = 0; i < device_count(); ++i) {
    const Predicted one = Predict(i, &pinned_free);
    sum.suspend_s += one.suspend_s;
    sum.resume_s += one.resume_s;
  }
  return sum;
}

}  // namespace tide::runtime

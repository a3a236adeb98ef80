// A job that waits for its turn has some of its pages back before it, where there is room that
// nobody wants: so much less is left to be copied when the turn comes. Taken back is what others
// may need next, so this waits until their memory has settled, and gives way to whoever asks.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/options.h"
#include "runtime/cuda_job.h"
#include "shm/slot_table.h"

namespace tide::runtime {

void CudaJob::LookAhead(bool may) {
  for (int i = 0; i < device_count(); ++i) LookAhead(i, may);
}

bool CudaJob::Prefetch() {
  for (int i = 0; i < device_count(); ++i) {
    if (Prefetch(i)) return true;
  }
  return false;
}

Bytes CudaJob::FreeRoom(const Device& device) {
  for (int i = 0; i < shm::kSlotCount; ++i) {
    const shm::JobSlot& slot = device.file->table().slots[i];
    // acquire: whoever asks is refused before, by what this process sees after
    if (shm::IsLive(slot) && slot.reclaim_bytes.load(std::memory_order_acquire) > 0)
      return Bytes(0);
  }
  return std::max(device.file->Capacity() - device.file->Used(), Bytes(0));
}

void CudaJob::LookAhead(int index, bool may) {
  Device& device = *devices_[index];
  Ahead& ahead = device.ahead;
  ahead.plan.clear();
  // By a request or by a pause: either way it is away again.
  if (ahead.brought > Bytes(0) && pages_->counts(index).demoted != ahead.demoted) ahead.over = true;
  const Bytes used = device.file->Used();
  const bool settled = ahead.looked && used <= ahead.used;
  ahead.looked = true;
  ahead.used = used;
  const double share = std::clamp(DoubleOption("cuda.prefetch"), 0.0, 1.0);
  const Bytes away = Aside(index);
  if (!may || !settled || ahead.over || device.suspended || share == 0 || away == Bytes(0)) return;
  if (frozen() || Capturing() || FreeRoom(device) == Bytes(0)) return;
  const auto most =
      static_cast<int64_t>(share * static_cast<double>((away + ahead.brought).value()));
  Bytes left = Bytes(most) - ahead.brought;
  std::vector<pages::DevicePage> pages = Away(index);
  const size_t first = pages::PlanReturn(
      &pages,
      framework_.layers ? touches_.Ordered(framework_.layers()) : std::vector<pages::ColdRange>(),
      framework_.late ? framework_.late() : std::vector<pages::ColdRange>());
  for (size_t i = 0; i < first && pages[i].size <= left; ++i) {
    left -= pages[i].size;
    ahead.plan.push_back(pages[i]);
  }
  std::reverse(ahead.plan.begin(), ahead.plan.end());
}

bool CudaJob::Prefetch(int index) {
  Device& device = *devices_[index];
  Ahead& ahead = device.ahead;
  while (!ahead.plan.empty()) {
    const pages::DevicePage page = ahead.plan.back();
    const Bytes used = device.file->Used();
    if (device.suspended || used > ahead.used || FreeRoom(device) < page.size) break;
    if (ahead.brought == Bytes(0)) ahead.demoted = pages_->counts(index).demoted;
    const int64_t begin = RealClock().MonotonicNanos();
    const absl::Status status = pages_->Promote(page.token);
    ahead.plan.pop_back();
    if (status.ok()) {
      ahead.used = used + page.size;
      ahead.brought += page.size;
      ahead.copy_ns += RealClock().MonotonicNanos() - begin;
      return true;
    }
    // Freed meanwhile, or back by another way.
    if (absl::IsNotFound(status) || absl::IsFailedPrecondition(status)) continue;
    ahead.over = true;
    if (!absl::IsResourceExhausted(status)) {
      Log(LogLevel::kWarning, absl::StrCat("event=not_prefetched device=", index, " status=\"",
                                           status.ToString(), "\""));
    }
    break;
  }
  ahead.plan.clear();
  return false;
}

void CudaJob::EndPrefetch(int index) {
  Device& device = *devices_[index];
  Ahead& ahead = device.ahead;
  if (ahead.brought > Bytes(0) && pages_->counts(index).demoted == ahead.demoted) {
    device.prefetched_bytes.fetch_add(ahead.brought.value(), std::memory_order_relaxed);
    device.prefetch_ns.fetch_add(ahead.copy_ns, std::memory_order_relaxed);
  }
  ahead = {};
}

}  // namespace tide::runtime

// What a job says of its devices, and what it measures on them for all jobs.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/options.h"
#include "runtime/cuda_job.h"
#include "shm/slot_table.h"

namespace tide::runtime {

namespace cuda = pages::cuda;

void CudaJob::MeasureOutside(int index, CudaReport* report) {
  if (frozen()) return;  // the driver would not answer
  const cuda::ScopedContext context(*driver_, index);
  if (!context.status().ok()) return;
  Device& device = *devices_[index];
  size_t free = 0, total = 0;
  // Both figures of one moment, or what others take and give between the two would seem outside.
  Bytes used;
  for (int attempt = 0; attempt < 4; ++attempt) {
    used = device.file->Used();
    if (driver_->calls().memory_info(&free, &total) != cuda::kSuccess) return;
    if (device.file->Used() == used) break;
  }
  report->total = Bytes(static_cast<int64_t>(total));
  report->free = Bytes(static_cast<int64_t>(free));
  report->outside = std::max(report->total - report->free - used, Bytes(0));
  // Setting it wakes whoever waits, who measures too: only when it is another.
  const Bytes capacity = report->total - report->outside - Headroom(device, report->total);
  if (device.file->Capacity() != capacity) device.file->SetCapacity(capacity);
}

Bytes CudaJob::Headroom(const Device& device, Bytes total) {
  int jobs = 0;
  for (int i = 0; i < shm::kSlotCount; ++i) jobs += shm::IsLive(device.file->table().slots[i]);
  if (jobs < 2) return Bytes(0);
  return std::min(Bytes(BytesOption("cuda.headroom")), Bytes(total.value() / 64));
}

CudaReport CudaJob::Report(int index) {
  Device& device = *devices_[index];
  CudaReport report;
  report.name = device.name;
  report.uuid = device.uuid;
  report.table_path = device.file->path();
  MeasureOutside(index, &report);
  report.limit = device.account->limit();
  report.capacity = device.file->Capacity();
  report.used = device.file->Used();
  report.asked = Asked(index);
  report.counts = pages_->counts(index);
  report.chunks = shm::ChunkBytes(device.file->table(), device.slot);
  for (const shm::LaneSlot& lane : device.file->table().lanes)
    report.lanes += Bytes(lane.scratch_bytes.load(std::memory_order_relaxed));
  const Predicted predicted = Predict(index);
  report.predicted_suspend_s = predicted.suspend_s;
  report.predicted_resume_s = predicted.resume_s;
  report.prefetched = Bytes(device.prefetched_bytes.load(std::memory_order_relaxed));
  report.prefetch_ns = device.prefetch_ns.load(std::memory_order_relaxed);
  report.settle_ns = device.settle_ns.load(std::memory_order_relaxed);
  return report;
}

std::string CudaJob::MemoryTable(int index) {
  const CudaReport report = Report(index);
  std::string text = absl::StrCat(report.name, " (", report.uuid, "): ", FormatBytes(report.total),
                                  ", free ", FormatBytes(report.free), ", in no job's ledger ",
                                  FormatBytes(report.outside), "\n");
  for (const shm::Holder& holder : devices_[index]->file->WhoHoldsWhat()) {
    absl::StrAppend(&text, "  ", holder.name, " (pid ", holder.pid,
                    "): ", FormatBytes(holder.private_bytes), "\n");
  }
  if (report.lanes > Bytes(0)) {
    absl::StrAppend(&text, "  scratch that lanes share: ", FormatBytes(report.lanes), "\n");
  }
  if (report.limit > Bytes(0)) {
    absl::StrAppend(&text, "  this job's limit is ", FormatBytes(report.limit),
                    "; torchtide.cuda.set_limit changes it\n");
  }
  return text;
}

}  // namespace tide::runtime

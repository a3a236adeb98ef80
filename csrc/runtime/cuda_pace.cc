// How long an iteration takes on the devices, without letting them run dry.
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "runtime/cuda_job.h"

namespace tide::runtime {

void CudaJob::AwaitIterationBefore() {
  if (!HoldsMemory() || Capturing()) return;
  for (int i = 0; i < device_count(); ++i) {
    if (pages_->counts(i).creates == 0) continue;
    Device& device = *devices_[i];
    const pages::cuda::ScopedContext context(*driver_, i);
    absl::Status status = context.status();
    pages::cuda::Event& mark = device.marks[device.next_mark];
    device.next_mark = 1 - device.next_mark;
    const pages::cuda::Event before = device.marks[device.next_mark];
    if (status.ok() && mark == nullptr) {
      status = driver_->Check(driver_->calls().event_create(&mark, pages::cuda::kEventWithoutTime),
                              "a mark");
    }
    const pages::cuda::Stream stream = framework_.stream ? framework_.stream(i) : nullptr;
    if (status.ok()) {
      status = driver_->Check(driver_->calls().event_record(mark, stream), "mark an iteration");
    }
    if (status.ok() && before != nullptr) {
      status = driver_->Check(driver_->calls().event_synchronize(before), "wait for an iteration");
    }
    if (status.ok()) continue;
    Log(LogLevel::kWarning, absl::StrCat("event=iteration_not_awaited device=", i, " status=\"",
                                         status.ToString(), "\""));
  }
}

}  // namespace tide::runtime

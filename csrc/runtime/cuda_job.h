// The job's device memory put together: driver, pages, and one ledger a device that all jobs share.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/bytes.h"
#include "base/ids.h"
#include "pages/cuda_driver.h"
#include "pages/device_pages.h"
#include "pages/device_plan.h"
#include "pages/spill_file.h"
#include "runtime/accounts.h"
#include "runtime/core_api.h"
#include "shm/device_file.h"

namespace tide::runtime {

/// What `torchtide.cuda.report()` shows of one device.
struct CudaReport {
  std::string name;
  std::string uuid;
  std::string table_path;
  Bytes total;     // of the device, as the driver says
  Bytes free;      // of the device
  Bytes outside;   // used and in no job's ledger: contexts, libraries, processes without torchtide
  Bytes limit;     // of this job; 0: none
  Bytes capacity;  // for all jobs: total less outside
  Bytes used;      // by all jobs
  Bytes asked;     // what others have asked of this job
  pages::DeviceCounts counts;
};

struct ShrinkResult {
  Bytes moved;
  Bytes short_by;
  std::string reason;
};

/// One per process; never destroyed, since PyTorch's table points into it. Moves (Shrink, Suspend,
/// Resume) need an idle device and come from one thread, everything else from any.
class CudaJob {
 public:
  /// Opens the driver and claims a slot in each device's ledger. Idempotent. Errors: of the driver
  /// and of the tables; then nothing is hooked.
  static absl::StatusOr<CudaJob*> Start(const std::string& name);
  /// The one that runs, or null.
  static CudaJob* Current();

  /// For the adapter's table.
  const std::vector<TideCudaCall>& adapter_calls() const { return adapter_calls_; }
  int device_count() const { return driver_->device_count(); }
  pages::DevicePages& pages() { return *pages_; }

  /// The next request of the allocator sees it; 0: none. Returns by how much the job is over it.
  Bytes SetLimit(int device, Bytes limit);
  /// Moves pages until `need` bytes of device memory are given back: spares, then cold pages to
  /// host memory that the device can map, and only with `any` others too.
  ShrinkResult Shrink(int device, Bytes need, const std::vector<pages::ColdRange>& cold, bool any);
  /// Brings pages back as far as limit and device allow; takes nothing from others, for which they
  /// could ask again at once. Returns the bytes that still are away.
  absl::StatusOr<Bytes> Restore(int device);
  /// All pages that may move leave the device: to pinned memory, or to the spill file. On an error
  /// those that had left return. Returns the bytes given back.
  absl::StatusOr<Bytes> Suspend(int device, pages::DeviceTier to);
  /// All of them return; others are asked once for what is missing. Errors: then the rest stays
  /// away and the call may be repeated.
  absl::Status Resume(int device);

  CudaReport Report(int device);
  /// Who holds what on the device, as text.
  std::string MemoryTable(int device);
  /// So much of others' requests has been answered, as far as this job can.
  void AnswerOthers(int device, Bytes answered);
  /// Waits for the device; a boundary alone does not prove that it is idle.
  absl::Status Synchronize(int device);

 private:
  struct Device {
    std::unique_ptr<shm::DeviceFile> file;
    SlotId slot;
    std::unique_ptr<JobAccount> account;
    std::atomic<int64_t> asked_in_vain_ns{0};  // relaxed: a lone number
  };
  explicit CudaJob(std::unique_ptr<pages::cuda::Driver> driver) : driver_(std::move(driver)) {}
  absl::Status OpenDevice(const std::string& name, int index);
  void MeasureOutside(int device, CudaReport* report);
  bool NeedMemory(int device, Bytes bytes);
  bool AskOthers(Device& device, Bytes bytes);
  /// Asks others for what is missing to `bytes` and waits until they gave it, within need.wait_ms.
  /// False when nobody has any.
  bool AskAndWait(Device& device, Bytes bytes);
  absl::Status PromoteAll(int device, const std::vector<pages::cuda::Handle>& tokens);
  void FillAdapterCalls();
  absl::Status EnsureSpill();

  // constant after construction
  const std::unique_ptr<pages::cuda::Driver> driver_;
  std::vector<std::unique_ptr<Device>> devices_;
  std::unique_ptr<pages::DevicePages> pages_;
  std::unique_ptr<pages::SpillFile> spill_;  // opened at the first suspension that wants it
  std::vector<TideCudaCall> adapter_calls_;
};

}  // namespace tide::runtime

// The job's budget and the device's ledger behind the arena's two accounts.
#pragma once

#include <atomic>

#include "absl/status/status.h"
#include "base/bytes.h"
#include "base/ids.h"
#include "pages/account.h"
#include "shm/device_file.h"

namespace tide::runtime {

/// Private pages: first the job's own limit (OutOfRange beyond it), then the ledger
/// (ResourceExhausted). Thread-safe, never blocks.
class JobAccount final : public pages::Account {
 public:
  JobAccount(shm::DeviceFile& device, SlotId slot) : device_(device), slot_(slot) {}

  absl::Status Reserve(Bytes bytes) override;
  void Release(Bytes bytes) override;
  void Force(Bytes bytes) override;

  /// 0: none. Takes effect for the next reservation; moving what is over it is the boundary's work.
  void SetLimit(Bytes limit) { limit_.store(limit.value(), std::memory_order_relaxed); }
  Bytes limit() const { return Bytes(limit_.load(std::memory_order_relaxed)); }
  /// What the limit sets aside for streaming demoted pages: more of them may be in memory for a
  /// moment, and go again.
  /// Memory of the file tier. `reserved`: pages stream, so all of it is charged from now on.
  void SetWindow(Bytes window, bool reserved) {
    window_.store(window.value(), std::memory_order_relaxed);
    reserved_.store(reserved, std::memory_order_relaxed);
  }
  /// Everything the limit counts besides private pages, re-measured by the sampler: bytes outside
  /// our pages, the resident window of the file tier and this job's use of the lane.
  Bytes other_bytes() const;
  Bytes private_bytes() const;

 private:
  shm::JobSlot& slot() const { return device_.slot(slot_); }

  shm::DeviceFile& device_;  // borrowed; outlives the account
  const SlotId slot_;
  std::atomic<int64_t> limit_{0};  // relaxed: a lone number
  std::atomic<int64_t> window_{0};
  std::atomic<bool> reserved_{false};
};

/// Pages of the lane's scratch: one physical memory for all members, paid once, as large as the
/// largest use.
class LaneAccount final : public pages::Account {
 public:
  LaneAccount(shm::DeviceFile& device, SlotId slot) : device_(device), slot_(slot) {}

  absl::Status Reserve(Bytes bytes) override;
  void Release(Bytes bytes) override { own_ -= bytes; }
  void Force(Bytes bytes) override { own_ += bytes; }

  /// A new lane, or new scratch of the same lane, of which this process uses nothing yet.
  void Attach(LaneId lane);
  Bytes own() const { return own_; }

 private:
  shm::DeviceFile& device_;
  const SlotId slot_;
  LaneId lane_;
  Bytes own_;  // guarded by the arena's lock
};

}  // namespace tide::runtime

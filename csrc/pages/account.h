// Who is asked before memory is committed: the job's budget and the ledger of the device behind one
// call.
#pragma once

#include <atomic>
#include <cstdint>

#include "absl/status/status.h"
#include "base/bytes.h"

namespace tide::pages {

/// Bytes of private memory that this process may commit. Thread-safe; never blocks.
class Account {
 public:
  virtual ~Account() = default;
  /// Errors: ResourceExhausted saying what was asked, what the limit is and who set it; nothing is
  /// changed.
  virtual absl::Status Reserve(Bytes bytes) = 0;
  virtual void Release(Bytes bytes) = 0;
  /// Counts bytes that have to be there whatever the limit: survivors of an iteration that leave a
  /// lane.
  virtual void Force(Bytes bytes) = 0;
};

/// Grants everything up to its limit and counts it: for tests and for a process with no device.
class CountingAccount final : public Account {
 public:
  absl::Status Reserve(Bytes bytes) override {
    const int64_t limit = limit_;
    if (used_.fetch_add(bytes.value()) + bytes.value() > limit && limit > 0) {
      used_ -= bytes.value();
      return absl::ResourceExhaustedError("limit of the counting account");
    }
    return absl::OkStatus();
  }
  void Release(Bytes bytes) override { used_ -= bytes.value(); }
  void Force(Bytes bytes) override { used_ += bytes.value(); }
  Bytes used() const { return Bytes(used_); }
  void set_limit(Bytes limit) { limit_ = limit.value(); }

 private:
  std::atomic<int64_t> used_{0};
  std::atomic<int64_t> limit_{0};  // 0: none
};

}  // namespace tide::pages

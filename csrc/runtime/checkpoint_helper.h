// Has the driver checkpoint this process. A process cannot do that to itself, since its own CUDA
// calls block meanwhile: a short-lived helper does it.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace tide::runtime {

/// This process, as the driver's checkpoint has it: running, or frozen, when each of its CUDA calls
/// would wait for a thaw. Thread-safe. Needs neither Python's lock nor any of ours.
class CheckpointHelper {
 public:
  /// Starts the helper; the driver's library, this process's id and a verb are appended. What it
  /// does is python/torchtide/_deep.py.
  void SetCommand(std::vector<std::string> command);

  /// Locks and checkpoints this process, within a minute. Errors: FailedPrecondition without a
  /// command, Internal with what the driver said; then the process runs, unless `frozen` says
  /// that even this was refused.
  absl::Status Freeze(const std::string& library);
  /// Restores and unlocks it, from whatever state it is in. Errors: ResourceExhausted where a
  /// device has no room for it now, Internal for the rest; it stays frozen, and the call may be
  /// repeated.
  absl::Status Thaw(const std::string& library);
  /// True from before the first step of Freeze to after the last one of Thaw.
  bool frozen() const { return frozen_.load(std::memory_order_acquire); }
  /// Waits for as long as it is frozen, and no longer than `patience`; whether it runs now.
  bool AwaitThaw(absl::Duration patience = absl::InfiniteDuration());

 private:
  struct Answer {
    bool begun = false;  // it may have changed something
    std::string last;    // "done", "running", or what went wrong
    std::string failure;
    int error = 0;  // of the driver, with `failure`
  };
  absl::StatusOr<Answer> Run(const std::string& library, const char* verb)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status ThawLocked(const std::string& library) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  /// Held while a helper runs.
  absl::Mutex mu_;
  std::vector<std::string> command_ ABSL_GUARDED_BY(mu_);
  std::atomic<bool> frozen_{false};  // written with mu_ held
};

}  // namespace tide::runtime

// What a waiting process knows of the one it waits for: is it gone, how long has it not moved.
#pragma once

#include <cstdint>

#include "absl/time/time.h"
#include "base/ids.h"
#include "shm/device_file.h"
#include "shm/process.h"

namespace tide::lane {

/// Observes one turn word at a time. Not thread-safe: belongs to the waiting thread.
class HolderWatch {
 public:
  /// Notes that the lane's turn word was `word` at `now_ns`.
  void Observe(uint64_t word, int64_t now_ns);

  /// How long the observed word has been the same, as far as this process saw.
  absl::Duration Unchanged(int64_t now_ns) const { return absl::Nanoseconds(now_ns - since_ns_); }

  /// Whether the observed holder has ended or is no member of `lane` any more. Keeps a pidfd for
  /// the next look.
  bool HolderGone(shm::DeviceFile& device, LaneId lane);

  void Reset() { *this = HolderWatch(); }

 private:
  uint64_t word_ = 0;
  int64_t since_ns_ = 0;
  int32_t pid_ = 0;  // of pidfd_
  uint64_t start_time_ = 0;
  shm::PidFd pidfd_;
};

/// How long a holder may be silent before the others leave it behind: `grace` when it is stopped
/// (by a signal or a debugger), many of its own iterations when it runs, since leaving a holder
/// that is only slow costs a second scratch. Of a holder that has ended no iteration yet little is
/// known: half a minute.
absl::Duration HolderPatience(const shm::JobSlot& holder, absl::Duration grace);

}  // namespace tide::lane

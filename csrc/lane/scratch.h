// The memory that the members of a lane share: a memfd, found through a live member, one generation
// at a time.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/bytes.h"
#include "base/ids.h"
#include "base/unique_fd.h"
#include "lane/turn.h"
#include "shm/device_file.h"

namespace tide::lane {

/// One process's attachment to the scratch of a lane. It owns a descriptor and tells the table
/// which generation this process maps; mapping pages is the caller's. Order of life: Turn::Join,
/// Attach, ..., destroy, Turn::Leave. Not thread-safe.
class Scratch {
 public:
  /// Finds the current generation through a live member or starts a new one, of at least `size`
  /// bytes (sparse; it can grow, never shrink). Errors: FailedPrecondition (not a member of
  /// `lane`), PermissionDenied (a member's descriptor may not be opened), DeadlineExceeded,
  /// ResourceExhausted.
  static absl::StatusOr<Scratch> Attach(shm::DeviceFile& device, SlotId self, LaneId lane,
                                        Bytes size);

  Scratch(Scratch&& other) noexcept;
  /// Replaces an older attachment; map the new descriptor right after.
  Scratch& operator=(Scratch&& other) noexcept;
  ~Scratch();  // detaches, unless this is a forked child's copy

  int fd() const { return fd_.get(); }
  uint64_t generation() const { return generation_; }
  LaneId lane() const { return lane_; }

  /// Whether the others have moved to another generation: attach again before touching pages. Ask
  /// after Turn::Acquire has said OK.
  bool Stale() const;

  /// Enlarges the file to at least `size`.
  absl::Status Grow(Bytes size);

  /// Charges (or gives back) committed bytes of the generation that this process maps; for the
  /// process that has the turn. Errors: ResourceExhausted as DeviceFile::Reserve, DeadlineExceeded.
  absl::Status Reserve(Bytes delta) { return device_->ReserveScratch(self_, lane_, delta); }

  /// For a waiting member: when the holder has passed no boundary for `grace`, starts a fresh
  /// generation (this object then is of it: map it anew), leaves the old one to the holder and
  /// passes the turn on. Returns false when there is no such holder or it has just moved. The old
  /// pages stay charged (retired_bytes) until the last process that maps them attaches again or
  /// ends. Errors: ResourceExhausted when a second scratch does not fit: everybody waits;
  /// DeadlineExceeded.
  absl::StatusOr<bool> LeaveStuckHolder(Turn& turn, absl::Duration grace);

 private:
  Scratch(shm::DeviceFile& device, SlotId self, LaneId lane);
  void Publish(UniqueFd fd, uint64_t generation);
  void Detach();

  shm::DeviceFile* device_;  // borrowed
  SlotId self_;
  LaneId lane_;
  pid_t pid_;
  UniqueFd fd_;
  uint64_t generation_ = 0;
};

}  // namespace tide::lane

// The device table as a file in the runtime directory: opening, claiming a slot, the ledger, the
// dead.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/bytes.h"
#include "base/ids.h"
#include "shm/file_lock.h"
#include "shm/layout.h"
#include "shm/runtime_dir.h"

namespace tide::shm {

/// One process's line in "who holds what".
struct Holder {
  SlotId slot;
  std::string name;
  int32_t pid = 0;
  int64_t job_id = 0;
  Bytes private_bytes;
  Bytes file_resident;
  Bytes outside;  // as measured last
  Bytes demoted;  // on disk: not part of used
  Bytes guaranteed;
  LaneId lane;
  bool has_turn = false;
  Bytes used() const { return private_bytes + file_resident + outside; }
};

/// The table of one device, mapped. All functions may be called from any thread and process at
/// once; nothing here needs the daemon. A forked child must not use its parent's object.
class DeviceFile {
 public:
  static constexpr absl::Duration kLockTimeout = absl::Seconds(5);

  /// Opens `runtime_dir`/device-`device`, creating directory (0700) and file (0600). A table of
  /// another boot is started anew. Errors: PermissionDenied (symbolic link, other owner, open to
  /// others), FailedPrecondition (written by another version), ResourceExhausted (no room on the
  /// file system), DeadlineExceeded (locked).
  static absl::StatusOr<std::unique_ptr<DeviceFile>> Open(const std::string& runtime_dir,
                                                          absl::string_view device = "cpu0");
  DeviceFile(const DeviceFile&) = delete;
  DeviceFile& operator=(const DeviceFile&) = delete;
  ~DeviceFile();

  DeviceTable& table() { return *table_; }
  const DeviceTable& table() const { return *table_; }
  JobSlot& slot(SlotId id) { return table_->slots[id.value()]; }
  LaneSlot& lane(LaneId id) { return table_->lanes[id.value()]; }
  const std::string& path() const { return path_; }

  /// Gives the calling process a slot, after the dead ones have been freed. `name` is cut to 63
  /// bytes. A process may own several slots. Errors: ResourceExhausted when all are in use,
  /// DeadlineExceeded.
  absl::StatusOr<SlotId> Claim(absl::string_view name);

  /// Frees a slot of the calling process: its turn passes on, its ledger is zero. Idempotent.
  void Free(SlotId id);

  /// As Free, for a process that is about to end: its turn passes on at once, and its bytes stay in
  /// the ledger until it has really ended, when whoever reaps frees the slot. Idempotent.
  void Retire(SlotId id);

  /// Frees slots whose process has ended, and claims that were torn. A slot whose owner left forked
  /// children behind stays, without turn and private pages, charged with what they hold, until they
  /// end too. Returns how many were freed; 0 when somebody else has the lock for longer than
  /// `timeout` (the next call tries again).
  int ReapDead(absl::Duration timeout = kLockTimeout);

  /// Bytes charged to the device: live slots' private and resident bytes, the most that was outside
  /// lately, and the lanes' scratch.
  Bytes Used() const;
  /// Bytes in memory now, as far as they have been measured: what the kernel would say.
  Bytes Held() const;
  /// 0: unlimited.
  Bytes Capacity() const;
  void SetCapacity(Bytes capacity);

  /// Adds `delta` to one ledger field of the caller's own slot. A negative delta always succeeds
  /// and wakes those who wait for memory. A positive one that takes the device over its capacity
  /// changes nothing. Errors: ResourceExhausted with what was asked, used and the capacity.
  absl::Status Reserve(SlotId id, std::atomic<int64_t> JobSlot::*field, Bytes delta);

  /// Adds to (or subtracts from) the scratch of a lane on behalf of `id`: of the current
  /// generation, or of the retired one that `id` still maps. The same law and errors as Reserve,
  /// and DeadlineExceeded.
  absl::Status ReserveScratch(SlotId id, LaneId lane, Bytes delta);

  /// Says that `id` has the first `count` chunks of `size` of its lane's scratch (JobSlot::lane) of
  /// its generation (JobSlot::lane_generation), and charges the lane with what no other member has.
  /// Returns the processes that have as many chunks: none for a chunk that nobody has made. Errors:
  /// as Reserve, DeadlineExceeded, Unavailable when the lane has kChunkSizes other sizes,
  /// FailedPrecondition without a lane.
  absl::StatusOr<std::vector<int32_t>> HoldChunks(SlotId id, Bytes size, int count);

  /// Starts a new generation of a lane's chunks, for members that leave a stuck one: its chunks
  /// stay charged until it has given them back. Errors: ResourceExhausted when as many more do not
  /// fit, DeadlineExceeded; nothing is changed.
  absl::Status RenewChunks(LaneId lane);

  /// Adds 1 to the slot's wake word and wakes the owner.
  void Wake(SlotId id);

  /// Sleeps until somebody gives memory back after freed_word was `seen`, at most `timeout`. Read
  /// freed_word, try to reserve, then wait with what was read: nothing is missed.
  void WaitFreed(uint32_t seen, absl::Duration timeout);
  uint32_t FreedWord() const;

  /// The lock under which slots are claimed and scratch generations change. Errors:
  /// DeadlineExceeded.
  absl::StatusOr<FileLock> Lock(absl::Duration timeout = kLockTimeout) const;

  /// Live processes, largest use first.
  std::vector<Holder> WhoHoldsWhat() const;

 private:
  DeviceFile(std::string path, UniqueFd fd, DeviceTable* table);
  int ReapDeadLocked();
  absl::Status TryReserve(std::atomic<int64_t>& field, Bytes delta);
  absl::Status DoesNotFit(Bytes asked, Bytes used) const;

  // constant after construction
  const std::string path_;
  const UniqueFd fd_;
  DeviceTable* const table_;  // a shared mapping, unmapped by the destructor
};

}  // namespace tide::shm

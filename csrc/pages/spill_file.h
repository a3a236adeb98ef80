// The file tier's backing: one unlinked file of page-sized slots on a real disk.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/bytes.h"
#include "base/ids.h"
#include "base/unique_fd.h"

namespace tide::pages {

struct SpillOptions {
  std::string dir;  // empty: $XDG_CACHE_HOME/torchtide or ~/.cache/torchtide
  Bytes size_max = GiB(64);
  Bytes disk_free_min = GiB(1);  // left to others
};

/// Slots of kPage in an O_TMPFILE file, allocated in chunks of 64 MiB. A slot is never handed out
/// again while a forked child may still map it (Note [Held slots]). Externally synchronised (the
/// page table's lock).
class SpillFile {
 public:
  /// Errors: FailedPrecondition on tmpfs (that would spill memory into memory), and where the folder
  /// cannot be made; PermissionDenied.
  static absl::StatusOr<std::unique_ptr<SpillFile>> Open(const SpillOptions& options);
  ~SpillFile();

  /// A slot of zeroes or old contents; the caller writes or maps it. Errors: ResourceExhausted
  /// naming what the cap, the disk and the request are.
  absl::StatusOr<SpillSlot> Allocate();
  /// Drops what is cached of the slot without writing it, and keeps its place on the disk.
  void Free(SpillSlot slot);

  /// For mappings.
  int fd() const { return fd_.get(); }
  /// For transfers: bypasses the page cache (O_DIRECT) where the file system can, so that moving
  /// pages out does not need memory for a second copy of them.
  int transfer_fd() const { return direct_fd_ ? direct_fd_.get() : fd_.get(); }
  Bytes Offset(SpillSlot slot) const { return kPage * slot.value(); }
  Bytes used() const { return kPage * used_; }
  const std::string& dir() const { return options_.dir; }

  /// Brackets of fork: slots in use are held until every child made then has gone.
  void BeforeFork();
  void AfterForkInParent();
  void AfterForkInChild();
  /// Free slots that only wait for children to go.
  int64_t held_count() const { return static_cast<int64_t>(held_.size()); }

 private:
  SpillFile(SpillOptions options, UniqueFd fd, UniqueFd direct_fd)
      : options_(std::move(options)), fd_(std::move(fd)), direct_fd_(std::move(direct_fd)) {}
  absl::Status Grow();
  void CollectHeld();
  void Forget(SpillSlot slot);

  const SpillOptions options_;
  const UniqueFd fd_;
  const UniqueFd direct_fd_;
  int64_t slot_count_ = 0;
  int64_t used_ = 0;
  std::vector<SpillSlot> free_;
  std::vector<SpillSlot> held_;
  std::vector<UniqueFd> children_;  // read ends; end-of-file: the children of that fork have gone
  int fork_pipe_[2] = {-1, -1};
};

}  // namespace tide::pages

// Chunks of a lane's scratch on one device: physical memory that the jobs of a lane have in common,
// as far as this process has it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/bytes.h"
#include "base/unique_fd.h"
#include "pages/cuda_driver.h"

namespace tide::pages {

/// Who keeps the books of a lane and reaches its other members.
class ChunkSource {
 public:
  virtual ~ChunkSource() = default;
  /// This process is about to have the first `count` chunks of `size`: charges them, and returns
  /// the last one's descriptor from a member that has it, or an empty one when nobody does.
  /// Errors: ResourceExhausted (it does not fit the device), Unavailable (those that have it do not
  /// answer); nothing is changed.
  virtual absl::StatusOr<UniqueFd> Hold(Bytes size, int count) = 0;
  /// It has no more than `count` now.
  virtual void Keep(Bytes size, int count) = 0;
};

/// A chunk behind at most one page of this process.
struct Chunk {
  cuda::Handle real = 0;
  int index = -1;  // among those of its size
};

/// Thread-safe. A process has the first n chunks of a size, so that the number says which; those
/// behind no page are idle and the next to be taken. Not valid in a forked child.
class LaneChunks {
 public:
  LaneChunks(const cuda::Driver& driver, int device, ChunkSource& source)
      : driver_(driver), device_(device), source_(source) {}
  LaneChunks(const LaneChunks&) = delete;
  LaneChunks& operator=(const LaneChunks&) = delete;
  ~LaneChunks() { Trim(); }

  /// An idle chunk, or one more: of another member, else a new one. Errors: as ChunkSource::Hold,
  /// and of the driver; nothing is changed.
  absl::StatusOr<Chunk> Take(Bytes size);
  /// An idle chunk with a lower number than `index`, if there is one.
  std::optional<Chunk> TakeBelow(Bytes size, int index);
  /// It is behind no page any more, and idle.
  void Return(Bytes size, const Chunk& chunk);
  /// Gives idle chunks back from the last one down, as far as the driver lets them go.
  void Trim();
  /// For another member. Errors: NotFound, of the driver.
  absl::StatusOr<UniqueFd> Export(Bytes size, int index);
  /// Of all chunks that this process has.
  Bytes held() const;

 private:
  struct Slot {
    cuda::Handle real = 0;
    bool taken = false;
  };
  absl::StatusOr<cuda::Handle> Make(Bytes size, int index);

  const cuda::Driver& driver_;
  const int device_;
  ChunkSource& source_;
  // Note [Chunks] Held during driver calls and while another member is asked, which has a deadline:
  // the allocator comes here only to return a chunk, and who asks this process for one waits no
  // longer than it likes.
  mutable absl::Mutex mu_;
  std::map<Bytes, std::vector<Slot>> slots_ ABSL_GUARDED_BY(mu_);
};

}  // namespace tide::pages

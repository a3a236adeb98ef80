// The memory file of an elastic job: making and mapping it, and what needs no membership.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "elastic/layout.h"

namespace tide::elastic {

/// What a job wants of its launcher: between low and high processes, `target` of them now.
struct Sizes {
  uint32_t low = 1;
  uint32_t high = 1;
  uint32_t target = 1;
};

/// A mapping of the file. Thread-safe: everything shared is atomic.
class Group {
 public:
  /// An anonymous memory file with an empty group. Errors: InvalidArgument unless 1 <= low <=
  /// target <= high <= kProcessesMax; ResourceExhausted.
  static absl::StatusOr<UniqueFd> Create(Sizes sizes);
  /// Maps the header of the file behind `fd`. Errors: FailedPrecondition when it is no group or one
  /// of another version.
  static absl::StatusOr<std::unique_ptr<Group>> Attach(UniqueFd fd);
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  ~Group();

  GroupHeader& header() { return *header_; }
  const GroupHeader& header() const { return *header_; }
  MemberSlot& member(int slot) { return header_->members[slot]; }
  const Geometry& geometry() const { return header_->geometry; }

  /// The first caller lays the file down by `geometry` and `contract`; the others get what it
  /// wrote; when it dies half-way another one begins anew. Maps all areas. Returns the contract
  /// that holds. Errors: FailedPrecondition when the geometry differs, DeadlineExceeded when the
  /// first caller is held up for so long.
  absl::StatusOr<std::string> Seal(const Geometry& geometry, absl::string_view contract,
                                   absl::Duration timeout);

  /// Changes the wanted number of processes. Errors: InvalidArgument outside of the job's bounds or
  /// above its logical workers; FailedPrecondition once the training is over.
  absl::Status Resize(uint32_t target);
  /// Narrows the bounds; every process may say the same again. Errors: InvalidArgument when nothing
  /// is left of them.
  absl::Status Bound(uint32_t low, uint32_t high);
  /// Wishes the job paused at its next boundary, or resumed at once. Returns the number of the
  /// pause. Idempotent. Errors: FailedPrecondition once the training is over.
  absl::StatusOr<uint32_t> Pause(bool wanted);
  /// Wishes that all processes together hold at most `bytes` (rounded down to KiB; 0: no limit).
  /// Returns the LimitWord. Errors: InvalidArgument above 1 PiB; FailedPrecondition once the
  /// training is over.
  absl::StatusOr<uint64_t> Limit(uint64_t bytes);

  // Areas; only after Seal.
  std::byte* context(uint64_t step, int worker);
  std::byte* area(int slot);
  std::byte* shards();
  std::byte* used(int slot);  // a byte for each parameter

  /// Maps at least `bytes` of the area of state, growing the file. The mapping is unmapped by the
  /// deleter.
  using StateMapping = std::unique_ptr<std::byte, std::function<void(std::byte*)>>;
  absl::StatusOr<StateMapping> MapState(size_t bytes);
  /// Makes the pages of what a joiner will be waited for over: the first `buffers` buffers of its
  /// area, and the state that it is expected to receive, which the next MapState finds mapped. What
  /// cannot be made now is made when it is needed. One thread, as MapState.
  void Prepare(int slot, size_t buffers);
  /// Gives the memory of the area of state back.
  void DropState();

  /// Says that something changed; wakes all who wait.
  void Announce();

 private:
  Group(UniqueFd fd, GroupHeader* header) : fd_(std::move(fd)), header_(header) {}
  absl::Status MapAreas();
  bool Sealed() const;
  absl::Status TrySeal(const Geometry& geometry, absl::string_view contract);

  const UniqueFd fd_;
  GroupHeader* header_;  // a shared mapping of mapped_bytes_, or of the header alone
  size_t mapped_bytes_ = AlignArea(sizeof(GroupHeader));
  StateMapping prepared_;  // by Prepare, until somebody takes it
  size_t prepared_bytes_ = 0;
};

}  // namespace tide::elastic

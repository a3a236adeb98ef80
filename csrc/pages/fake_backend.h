// A backend on plain memory that knows what stands behind every address and refuses what makes no
// sense.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/bytes.h"
#include "pages/backend.h"

namespace tide::pages {

/// For tests and platforms without an adapter. Mapped files are copies: they are written to the
/// file when their address gets another meaning, and read or written through at ReadFile and
/// WriteFile of the same bytes. Errors beyond the host's: InvalidArgument (unaligned or outside of
/// what was reserved), FailedPrecondition (a discard of a page that is not private, a publish onto
/// private memory or from what is no scratch, bytes of a file mapped twice, a file mapped over a
/// lane). Has the fault points of the host backend. Thread-safe.
class FakeBackend final : public Backend {
 public:
  FakeBackend() = default;
  ~FakeBackend() override;
  FakeBackend(const FakeBackend&) = delete;
  FakeBackend& operator=(const FakeBackend&) = delete;

  absl::StatusOr<char*> Reserve(Bytes size) override;
  void Unreserve(char* base, Bytes size) override;
  absl::Status MapPrivate(char* at, Bytes size) override;
  absl::Status MapLane(char* at, Bytes size, int fd, Bytes offset) override;
  absl::Status MapFile(char* at, Bytes size, int fd, Bytes offset) override;
  absl::Status MapFilePrivate(char* at, Bytes size, int fd, Bytes offset) override;
  absl::Status Discard(char* at, Bytes size) override;
  absl::StatusOr<char*> MapScratch(Bytes size) override;
  absl::Status Publish(char* scratch, char* at, Bytes size) override;
  void DropScratch(char* scratch, Bytes size) override;
  absl::Status WriteFile(int fd, Bytes offset, const char* from, Bytes size) override;
  absl::Status ReadFile(int fd, Bytes offset, char* to, Bytes size) override;
  void ReadAhead(char* at, Bytes size) override;
  void StartWriteBack(int fd, Bytes offset, Bytes size) override;
  void DropResident(char* at, Bytes size, int fd, Bytes offset) override;
  Bytes Resident(char* at, Bytes size) override;

  /// What a test asks: the tier behind an address, scratch that nobody published or dropped, hints
  /// so far.
  Tier TierAt(const char* at) const;
  int64_t scratch_count() const;
  int64_t read_ahead_count() const;
  int64_t drop_count() const;
  /// Returns once `count` hints of that kind have been given, false after `timeout`.
  bool AwaitHints(int64_t read_ahead_count, int64_t drop_count, absl::Duration timeout) const;

 private:
  using FileId = std::pair<dev_t, ino_t>;
  struct Cell {  // 4 KiB
    Tier tier = Tier::kPrivate;
    bool own = false;  // writes stay here
    bool in_memory = true;
    int fd = -1;
    int64_t offset = 0;
  };
  struct Range {
    char* raw;
    std::vector<Cell> cells;
  };

  static absl::StatusOr<FileId> Identify(int fd);
  absl::StatusOr<Cell*> Find(const char* at, Bytes size) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status MapBacked(char* at, Bytes size, const Cell& wanted)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Forget(char* at, Cell* cells, int64_t count) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  /// The memory that stands for those 4 KiB of the file, or null.
  char* MappedAt(const FileId& file, int64_t offset) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  mutable absl::Mutex mu_;
  std::map<char*, Range> ranges_ ABSL_GUARDED_BY(mu_);
  std::map<char*, std::pair<Bytes, char*>> scratch_ ABSL_GUARDED_BY(mu_);  // -> size, allocation
  std::map<FileId, int> files_
      ABSL_GUARDED_BY(mu_);  // own descriptors: a mapping outlives the one it was made with
  std::map<std::pair<FileId, int64_t>, char*> mapped_ ABSL_GUARDED_BY(mu_);
  int64_t read_aheads_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t drops_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace tide::pages

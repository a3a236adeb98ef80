// The lock of a file among processes and threads, held while an object of this class lives.
#pragma once

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"

namespace tide::shm {

/// An exclusive flock. Each lock has an open file description of its own, so that two threads of
/// one process exclude each other too and a forked child does not inherit it. Freed by the kernel
/// when the owner dies.
class FileLock {
 public:
  /// Locks the file behind `fd`. Errors: DeadlineExceeded after `timeout` (a stopped process may
  /// hold it).
  static absl::StatusOr<FileLock> Acquire(int fd, absl::Duration timeout);

  FileLock(FileLock&&) = default;
  FileLock& operator=(FileLock&&) = delete;
  ~FileLock();

 private:
  explicit FileLock(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace tide::shm

// Takes a flock with a deadline.
#include "shm/file_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <time.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"

namespace tide::shm {
namespace {

// flock has no deadline of its own, so we try again; the lock is held for tens of microseconds as a
// rule.
constexpr int64_t kFirstPauseNs = 20'000;
constexpr int64_t kLongestPauseNs = 1'000'000;

}  // namespace

absl::StatusOr<FileLock> FileLock::Acquire(int fd, absl::Duration timeout) {
  char path[32];
  snprintf(path, sizeof(path), "/proc/self/fd/%d",
           fd);  // the same file, whatever became of its name
  UniqueFd own(open(path, O_RDWR | O_CLOEXEC));
  if (!own) return ErrnoStatus("cannot open the device table to lock it");
  const int64_t deadline_ns = RealClock().MonotonicNanos() + absl::ToInt64Nanoseconds(timeout);
  for (int64_t pause_ns = kFirstPauseNs;; pause_ns = std::min(pause_ns * 2, kLongestPauseNs)) {
    if (flock(own.get(), LOCK_EX | LOCK_NB) == 0) return FileLock(std::move(own));
    if (errno != EWOULDBLOCK && errno != EINTR) return ErrnoStatus("cannot lock the device table");
    if (RealClock().MonotonicNanos() >= deadline_ns) {
      return absl::DeadlineExceededError(
          absl::StrCat("the device table stayed locked for ", absl::FormatDuration(timeout),
                       "; a stopped process may hold it: see /proc/locks"));
    }
    const timespec pause{.tv_sec = 0, .tv_nsec = pause_ns};
    nanosleep(&pause, nullptr);
  }
}

FileLock::~FileLock() {
  // Explicit: a child forked meanwhile by another thread shares the description and would keep it
  // locked.
  if (fd_) flock(fd_.get(), LOCK_UN);
}

}  // namespace tide::shm

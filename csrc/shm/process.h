// Who a process is beyond its pid, and whether it still runs.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/bytes.h"
#include "base/unique_fd.h"

namespace tide::shm {

/// What we read from /proc/PID/stat.
struct ProcessStat {
  char state = '?';  // 'R', 'S', 'T' (stopped), 'Z' (zombie), ...
  int64_t thread_count = 0;
  uint64_t start_time = 0;  // clock ticks since boot
};

/// Reads the fields of one line of /proc/PID/stat; the command name may contain spaces and
/// parentheses.
std::optional<ProcessStat> ParseProcessStat(absl::string_view line);

/// Start time of `pid` in clock ticks since boot (field 22), 0 when there is no such process.
uint64_t StartTime(pid_t pid);

/// Whether the process that has this pid and start time still runs. A zombie does not, unless
/// threads other than its first one live on.
bool ProcessAlive(pid_t pid, uint64_t start_time);

/// Whether that process is stopped by a signal or a tracer.
bool ProcessStopped(pid_t pid, uint64_t start_time);

/// Anonymous memory of a process, pages that it shares with others by fork in proportion (PSS); 0
/// when there is no such process. Milliseconds for each GiB.
Bytes AnonymousBytes(pid_t pid);

/// A handle on one process that cannot come to mean another one.
class PidFd {
 public:
  PidFd() = default;
  /// Errors: NotFound when the process is gone or another one has its pid.
  static absl::StatusOr<PidFd> Open(pid_t pid, uint64_t start_time);

  /// For poll: readable means dead.
  int fd() const { return fd_.get(); }
  explicit operator bool() const { return static_cast<bool>(fd_); }
  /// True once the process has ended (one system call, does not wait).
  bool Dead() const;

 private:
  explicit PidFd(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace tide::shm

// Reads /proc/PID/stat and opens pidfds.
#include "shm/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace tide::shm {
namespace {

// Fields are counted from 1 as in proc(5); the command name is field 2.
constexpr int kStateField = 3;
constexpr int kThreadCountField = 20;
constexpr int kStartTimeField = 22;

std::optional<ProcessStat> ReadProcessStat(pid_t pid) {
  char path[32];
  snprintf(path, sizeof(path), "/proc/%d/stat", pid);
  UniqueFd file(open(path, O_RDONLY | O_CLOEXEC));
  if (!file) return std::nullopt;
  char line[1024];  // the line is about 350 bytes; field 22 comes early
  const ssize_t length = read(file.get(), line, sizeof(line));
  if (length <= 0) return std::nullopt;
  return ParseProcessStat(absl::string_view(line, static_cast<size_t>(length)));
}

bool Runs(const ProcessStat& stat) {
  const bool ended = stat.state == 'Z' || stat.state == 'X';
  return !ended || stat.thread_count > 1;
}

}  // namespace

std::optional<ProcessStat> ParseProcessStat(absl::string_view line) {
  const size_t close = line.rfind(')');  // the name itself may hold any ") "
  if (close == absl::string_view::npos) return std::nullopt;
  line.remove_prefix(close + 1);
  ProcessStat stat;
  for (int field = kStateField; field <= kStartTimeField; ++field) {
    const size_t begin = line.find_first_not_of(' ');
    if (begin == absl::string_view::npos) return std::nullopt;
    line.remove_prefix(begin);
    const absl::string_view word = line.substr(0, line.find_first_of(" \n"));
    line.remove_prefix(word.size());
    if (field == kStateField) stat.state = word[0];
    if (field == kThreadCountField && !absl::SimpleAtoi(word, &stat.thread_count))
      return std::nullopt;
    if (field == kStartTimeField && !absl::SimpleAtoi(word, &stat.start_time)) return std::nullopt;
  }
  return stat;
}

uint64_t StartTime(pid_t pid) {
  const auto stat = ReadProcessStat(pid);
  return stat ? stat->start_time : 0;
}

bool ProcessAlive(pid_t pid, uint64_t start_time) {
  if (pid <= 0) return false;
  const auto stat = ReadProcessStat(pid);
  return stat && stat->start_time == start_time && Runs(*stat);
}

bool ProcessStopped(pid_t pid, uint64_t start_time) {
  if (pid <= 0) return false;
  const auto stat = ReadProcessStat(pid);
  return stat && stat->start_time == start_time && (stat->state == 'T' || stat->state == 't');
}

Bytes AnonymousBytes(pid_t pid) {
  char path[40];
  snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", pid);
  UniqueFd file(open(path, O_RDONLY | O_CLOEXEC));
  if (!file) return Bytes(0);
  char text[2048];  // about 700 bytes
  const ssize_t length = read(file.get(), text, sizeof(text));
  if (length <= 0) return Bytes(0);
  constexpr absl::string_view kKey = "Pss_Anon:";
  absl::string_view rest(text, static_cast<size_t>(length));
  const size_t at = rest.find(kKey);
  if (at == absl::string_view::npos) return Bytes(0);
  rest.remove_prefix(at + kKey.size());
  int64_t kilobytes = 0;
  const absl::string_view line = rest.substr(0, rest.find('\n'));
  const bool read_well = absl::SimpleAtoi(line.substr(0, line.find('k')), &kilobytes);
  return read_well ? KiB(kilobytes) : Bytes(0);
}

absl::StatusOr<PidFd> PidFd::Open(pid_t pid, uint64_t start_time) {
  if (pid <= 0) return absl::NotFoundError(absl::StrCat("no process has pid ", pid));
  UniqueFd fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));  // close-on-exec by definition
  if (!fd)
    return ErrnoStatus(absl::StrCat("pidfd_open of process ", pid),
                       errno == ESRCH ? ENOENT : errno);
  // The descriptor pins the process that has the pid now; only then is it compared with the one we
  // mean.
  if (StartTime(pid) != start_time) {
    return absl::NotFoundError(
        absl::StrCat("process ", pid, " has ended; its pid is free or used again"));
  }
  return PidFd(std::move(fd));
}

bool PidFd::Dead() const {
  pollfd entry{.fd = fd_.get(), .events = POLLIN, .revents = 0};
  return poll(&entry, 1, 0) > 0 && (entry.revents & POLLIN) != 0;
}

}  // namespace tide::shm

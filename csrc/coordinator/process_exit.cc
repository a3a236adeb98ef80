// The exit status of a zombie from /proc.
#include "coordinator/process_exit.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/unique_fd.h"

namespace tide::coordinator {
namespace {

// Fields after the command name, counted from 0: state is field 3 of proc(5).
constexpr size_t kState = 0;
constexpr size_t kStartTime = 22 - 3;
constexpr size_t kExitCode = 52 - 3;

}  // namespace

ExitStatus ParseExitStatus(absl::string_view line, int64_t start_time) {
  const size_t close = line.rfind(')');
  if (close == absl::string_view::npos) return {};
  const std::vector<absl::string_view> fields =
      absl::StrSplit(absl::StripAsciiWhitespace(line.substr(close + 1)), ' ');
  int64_t started = 0;
  int status = 0;
  if (fields.size() <= kExitCode || fields[kState] != "Z") return {};
  if (!absl::SimpleAtoi(fields[kStartTime], &started) || started != start_time) return {};
  if (!absl::SimpleAtoi(fields[kExitCode], &status)) return {};
  const int signal = status & 0x7f;  // as in wait(2)
  if (signal != 0) return {.signal = signal};
  return {.code = (status >> 8) & 0xff};
}

ExitStatus ReadExitStatus(int64_t pid, int64_t start_time) {
  char path[32];
  snprintf(path, sizeof path, "/proc/%d/stat", static_cast<int>(pid));
  UniqueFd file(open(path, O_RDONLY | O_CLOEXEC));
  if (!file) return {};
  char line[1024];
  const ssize_t length = read(file.get(), line, sizeof line);
  if (length <= 0) return {};
  return ParseExitStatus(absl::string_view(line, static_cast<size_t>(length)), start_time);
}

}  // namespace tide::coordinator

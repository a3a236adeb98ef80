// Reading, and writing beside before renaming.
#include "coordinator/history_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "coordinator/decision_log.h"

namespace tide::coordinator {
namespace {

constexpr int64_t kPeriodNs = 30'000'000'000;
constexpr size_t kHistoryBytesMax = 64 << 20;

}  // namespace

std::string HistoryFile::Read() const {
  const UniqueFd file(open(path_.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  std::string found;
  char buffer[1 << 16];
  while (file && found.size() < kHistoryBytesMax) {
    const ssize_t got = read(file.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    found.append(buffer, static_cast<size_t>(got));
  }
  return found;
}

void HistoryFile::Keep(const History& history, int64_t mono_ns, bool now) {
  if (history.version() == version_ || (!now && mono_ns - kept_ns_ < kPeriodNs)) return;
  version_ = history.version();
  kept_ns_ = mono_ns;
  const std::string part = absl::StrCat(path_, ".part");
  absl::Status kept = WriteSmallFile(part, history.Packed());
  if (kept.ok() && rename(part.c_str(), path_.c_str()) != 0)
    kept = ErrnoStatus(absl::StrCat("cannot rename ", part));
  if (!kept.ok())
    Log(LogLevel::kWarning, absl::StrCat("event=history_not_kept reason=\"", kept.message(), "\""));
}

}  // namespace tide::coordinator

// Appending and cutting.
#include "coordinator/decision_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"

namespace tide::coordinator {
namespace {

bool WriteAll(int file, absl::string_view text) {
  while (!text.empty()) {
    const ssize_t put = write(file, text.data(), text.size());
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    text.remove_prefix(static_cast<size_t>(put));
  }
  return true;
}

}  // namespace

void DecisionLog::Fail(absl::string_view what) {
  Log(LogLevel::kError,
      absl::StrCat("event=decision_log_ended reason=\"", ErrnoStatus(what).message(), "\""));
  file_.reset();
}

void DecisionLog::Cut(int64_t bytes) {
  if (path_.empty()) return;
  file_.reset(open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  if (!file_) return Fail(absl::StrCat("cannot open ", path_));
  bytes_ = std::min<int64_t>(bytes, lseek(file_.get(), 0, SEEK_END));  // it may be another file
  if (ftruncate(file_.get(), bytes_) != 0 || lseek(file_.get(), bytes_, SEEK_SET) != bytes_)
    Fail(absl::StrCat("cannot cut ", path_));
}

int64_t DecisionLog::Append(const std::string& lines) {
  if (path_.empty()) return -1;
  bytes_ += static_cast<int64_t>(lines.size());
  if (file_ && !WriteAll(file_.get(), lines)) Fail(absl::StrCat("cannot write ", path_));
  return bytes_;
}

absl::Status WriteSmallFile(const std::string& path, const std::string& text) {
  const UniqueFd file(
      open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file || !WriteAll(file.get(), text)) return ErrnoStatus(absl::StrCat("cannot write ", path));
  return absl::OkStatus();
}

}  // namespace tide::coordinator

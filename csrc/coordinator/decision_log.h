// The decision log: a file that grows by whole batches and is cut back to what was journalled.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/unique_fd.h"

namespace tide::coordinator {

/// Errors are logged once and end the log: it is for people, the journal is the record.
class DecisionLog {
 public:
  /// An empty path: no log.
  explicit DecisionLog(std::string path) : path_(std::move(path)) {}

  /// Cuts the file to `bytes`; what is beyond was written by a daemon that was killed before its
  /// journal had it.
  void Cut(int64_t bytes);
  /// Returns the size after it; negative without a log.
  int64_t Append(const std::string& lines);

 private:
  void Fail(absl::string_view what);

  const std::string path_;
  UniqueFd file_;
  int64_t bytes_ = 0;
};

/// Writes a small file of mode 0600 whole.
absl::Status WriteSmallFile(const std::string& path, const std::string& text);

}  // namespace tide::coordinator

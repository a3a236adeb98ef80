// The daemon's history beside its socket, for the daemon after it.
#pragma once

#include <string>

#include "coordinator/history.h"

namespace tide::coordinator {

/// Errors are logged: pictures of the past, no job needs them.
class HistoryFile {
 public:
  explicit HistoryFile(std::string path) : path_(std::move(path)) {}

  /// What was kept; empty when there is nothing.
  std::string Read() const;
  /// Writes it, whole or not at all, when it has changed and the last time is 30 s ago (a kill
  /// loses so much), or `now`.
  void Keep(const History& history, int64_t mono_ns, bool now = false);

 private:
  const std::string path_;
  int64_t version_ = 0, kept_ns_ = 0;
};

}  // namespace tide::coordinator

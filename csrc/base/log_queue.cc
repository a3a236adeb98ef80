#include "base/log_queue.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tide {
namespace {

/// One write of a pipe that says it has room (PIPE_BUF), with what the printer puts before it.
constexpr size_t kTextMax = 2000;

}  // namespace

LogQueue::LogQueue(Clock& clock) : clock_(clock), owner_(getpid()) {}

int64_t LogQueue::BeginMinute() {
  const int64_t minute = clock_.MonotonicNanos() / absl::ToInt64Nanoseconds(kMinute);
  if (minute == minute_) return minute;
  minute_ = minute;
  kept_ = 0;
  // What was not said in the minute before has ended, and is new when it comes again.
  std::erase_if(said_, [&](const auto& entry) { return entry.second.minute < minute - 1; });
  return minute;
}

void LogQueue::Keep(LogLevel level, std::string text) {
  ++kept_;
  lines_.push_back({level, std::move(text)});
}

void LogQueue::Push(LogLevel level, absl::string_view line) {
  if (level < LogLevel::kWarning || getpid() != owner_) return;
  const absl::string_view what = line.substr(0, line.find('"')).substr(0, kTextMax);
  absl::MutexLock lock(&mu_);
  const int64_t minute = BeginMinute();
  const auto known = said_.find(what);
  if (known != said_.end() && known->second.minute == minute) {
    ++known->second.repeated;
    return;
  }
  if (kept_ >= kLinesPerMinute || lines_.size() >= kLinesKept) {
    ++lost_;
    return;
  }
  std::string text(line.substr(0, kTextMax));
  std::replace(text.begin(), text.end(), '\n', ' ');  // as in a table of who holds what
  Said& said = known != said_.end() ? known->second : said_[std::string(what)];
  if (said.repeated > 0) absl::StrAppend(&text, " repeated=", said.repeated);
  said = {.minute = minute, .repeated = 0};
  Keep(level, std::move(text));
}

std::vector<LogQueue::Line> LogQueue::Take() {
  if (getpid() != owner_) return {};
  absl::MutexLock lock(&mu_);
  if (lost_ > 0) {
    BeginMinute();
    if (kept_ < kLinesPerMinute) {
      Keep(LogLevel::kWarning, absl::StrCat("event=warnings_lost count=", std::exchange(lost_, 0)));
    }
  }
  return std::exchange(lines_, {});
}

}  // namespace tide

// What a job has to tell its user, kept until a thread comes by that may print.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/log.h"

namespace tide {

/// A sink for warnings and errors; less is dropped. Lines that are equal up to their first quote
/// say the same: of those one a minute is kept, and the next says how many were not
/// (`repeated=N`). Thread-safe, waits for nothing and calls nobody, so lines may come from under
/// any lock. A forked child is no job: there it takes nothing and gives nothing.
class LogQueue {
 public:
  struct Line {
    LogLevel level;
    std::string text;
  };
  static constexpr absl::Duration kMinute = absl::Minutes(1);
  /// More differing lines in a minute than a user reads; what is beyond is counted.
  static constexpr int kLinesPerMinute = 20;
  /// Of a job that nobody asks for its lines.
  static constexpr int kLinesKept = 64;

  /// `clock` is borrowed.
  explicit LogQueue(Clock& clock);

  void Push(LogLevel level, absl::string_view line);
  /// The lines since the last call, the oldest first.
  std::vector<Line> Take();

 private:
  struct Said {
    int64_t minute = 0;
    int64_t repeated = 0;  // since it was kept
  };
  int64_t BeginMinute() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Keep(LogLevel level, std::string text) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Clock& clock_;
  const pid_t owner_;

  absl::Mutex mu_;  // innermost: nothing is called under it
  std::vector<Line> lines_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, Said, std::less<>> said_ ABSL_GUARDED_BY(mu_);
  int64_t minute_ ABSL_GUARDED_BY(mu_) = 0;
  int kept_ ABSL_GUARDED_BY(mu_) = 0;      // in this minute
  int64_t lost_ ABSL_GUARDED_BY(mu_) = 0;  // beyond what is kept, and not yet told
};

}  // namespace tide

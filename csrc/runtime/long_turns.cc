#include "runtime/long_turns.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace tide::runtime {
namespace {

constexpr int64_t kSayNanos = 10'000'000'000;

std::string Text(int64_t nanos) {
  return absl::FormatDuration(absl::Trunc(absl::Nanoseconds(nanos), absl::Milliseconds(1)));
}

}  // namespace

std::optional<LongTurns::Said> LongTurns::Note(int64_t now, int64_t moving_ns, int64_t hold_ns,
                                               int64_t usual_ns) {
  if (moving_ns > 0 && hold_ns > usual_ns) {
    // The turn of somebody else may follow, in which this job is not asked.
    over_at_ns_ = std::max(over_at_ns_, now + 2 * hold_ns);
    if (said_ || (said_ns_ != 0 && now - said_ns_ < kSayNanos)) return std::nullopt;
    said_ = true;
    said_ns_ = now;
    return Said{"long_turns",
                absl::StrCat("keeps its turns for ", Text(hold_ns), " instead of ", Text(usual_ns),
                             ", since its device memory takes ", Text(moving_ns),
                             " to leave and return (TIDE_CUDA_SWITCH_SHARE)")};
  }
  if (!said_ || now < over_at_ns_) return std::nullopt;
  said_ = false;
  return Said{"usual_turns",
              "its turns are as the lane has them again: its device memory moves "
              "less, or not at all"};
}

}  // namespace tide::runtime

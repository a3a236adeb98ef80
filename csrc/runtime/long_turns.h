// Whether a job's turns are longer than its lane would have them, because its memory has to move.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace tide::runtime {

/// Says once when such turns begin and once when they are over. Not thread-safe.
class LongTurns {
 public:
  /// An event for people.
  struct Said {
    std::string kind;
    std::string text;
  };
  /// In a turn at `now`: memory has moved for `moving_ns` (0: not since the last call), therefore
  /// the turn is kept for `hold_ns`. The lane by itself would let it last `usual_ns`: the quantum,
  /// or one iteration. All times in ns, monotonic.
  std::optional<Said> Note(int64_t now, int64_t moving_ns, int64_t hold_ns, int64_t usual_ns);

 private:
  bool said_ = false;
  int64_t said_ns_ = 0;     // when it was last said; 0: never
  int64_t over_at_ns_ = 0;  // unless memory moves again
};

}  // namespace tide::runtime

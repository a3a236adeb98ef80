// How many frames a peer may send: a rate, and a burst on top of it.
#pragma once

#include <algorithm>
#include <chrono>

namespace tide::coordinator {

/// Starts full. A value without a clock of its own; `now` must not go back.
class TokenBucket {
 public:
  using Time = std::chrono::steady_clock::time_point;
  TokenBucket(double per_s, double burst, Time now)
      : per_s_(per_s), burst_(burst), tokens_(burst), filled_(now) {}

  /// Whether there is a token; none is taken.
  bool Ready(Time now) {
    const std::chrono::duration<double> passed = now - filled_;
    filled_ = now;
    tokens_ = std::min(burst_, tokens_ + passed.count() * per_s_);
    return tokens_ >= 1;
  }
  /// After Ready said so.
  void Take() { tokens_ -= 1; }

 private:
  double per_s_, burst_, tokens_;
  Time filled_;
};

}  // namespace tide::coordinator

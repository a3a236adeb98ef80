// Time comes in through this interface, so that tests and the simulator own it.
#pragma once

#include <atomic>

#include "absl/time/time.h"

namespace tide {

/// Thread-safe source of time.
class Clock {
 public:
  virtual ~Clock() = default;
  /// Wall time: for events that people read.
  virtual absl::Time Now() = 0;
  /// Monotonic nanoseconds, comparable among processes of one boot: for deadlines and durations.
  virtual int64_t MonotonicNanos() = 0;
};

/// The machine's clock (CLOCK_REALTIME, CLOCK_MONOTONIC). Never destroyed.
Clock& RealClock();

/// Advances only when told to.
class SimulatedClock final : public Clock {
 public:
  explicit SimulatedClock(absl::Time start = absl::UnixEpoch()) : start_(start) {}
  absl::Time Now() override { return start_ + absl::Nanoseconds(MonotonicNanos()); }
  int64_t MonotonicNanos() override { return nanos_.load(std::memory_order_relaxed); }
  void Advance(absl::Duration by) {
    nanos_.fetch_add(absl::ToInt64Nanoseconds(by), std::memory_order_relaxed);
  }

 private:
  const absl::Time start_;
  std::atomic<int64_t> nanos_{0};  // relaxed: one number, no other data published with it
};

}  // namespace tide

// Stands in for csrc/elastic/edge.h: every word, wait and look at another process is a step of a
// simulated machine, which may switch to another process there, delay this one or end it.
#pragma once

#include <atomic>
#include <cstdint>

#include "absl/time/time.h"
#include "sim/elastic/machine.h"

namespace tide::elastic {

template <typename T>
class Word {
 public:
  T load(std::memory_order /*order*/ = std::memory_order_seq_cst) const {
    simulated::Step();
    return value_;
  }
  void store(T value, std::memory_order /*order*/ = std::memory_order_seq_cst) {
    if (simulated::Step()) value_ = value;
  }
  T operator=(T value) {
    store(value);
    return value;
  }
  T exchange(T value) {
    const bool lives = simulated::Step();
    const T before = value_;
    if (lives) value_ = value;
    return before;
  }
  T fetch_add(T by) {
    const bool lives = simulated::Step();
    const T before = value_;
    if (lives) value_ = static_cast<T>(before + by);
    return before;
  }
  bool compare_exchange_strong(T& expected, T desired) {
    const bool lives = simulated::Step();
    const bool equal = value_ == expected;
    if (equal && lives) value_ = desired;
    expected = equal ? expected : value_;
    return equal;
  }
  bool compare_exchange_weak(T& expected, T desired) {
    if (simulated::FailsSpuriously()) {
      expected = load();
      return false;
    }
    return compare_exchange_strong(expected, desired);
  }
  /// For the scheduler, between two steps.
  T peek() const { return value_; }

 private:
  T value_;
};

inline void AwaitChange(Word<uint32_t>& word, uint32_t seen, absl::Duration timeout) {
  simulated::Step();
  if (word.peek() == seen) simulated::Sleep(timeout);
}
inline void WakeAll(Word<uint32_t>& /*word*/) { simulated::WakeSleepers(); }

inline Clock& MachineClock() { return simulated::MachineClock(); }
inline int32_t OwnPid() { return simulated::OwnPid(); }
inline uint64_t OwnStartTime() { return static_cast<uint64_t>(simulated::OwnPid()) + 1000; }
inline bool ProcessRuns(int32_t pid, uint64_t /*start_time*/) {
  simulated::Step();
  return simulated::Runs(pid);
}
inline bool ProcessIsStopped(int32_t pid, uint64_t /*start_time*/) {
  simulated::Step();
  return simulated::IsStopped(pid);
}

class ProcessHandle {
 public:
  ProcessHandle() = default;
  static ProcessHandle Open(int32_t pid, uint64_t start_time) {
    return ProcessRuns(pid, start_time) ? ProcessHandle(pid) : ProcessHandle();
  }
  explicit operator bool() const { return pid_ != 0; }
  bool Dead() const { return !ProcessRuns(pid_, 0); }
  void Kill() const {
    if (simulated::Step()) simulated::Kill(pid_);
  }

 private:
  explicit ProcessHandle(int32_t pid) : pid_(pid) {}
  int32_t pid_ = 0;
};

}  // namespace tide::elastic

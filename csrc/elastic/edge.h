// The edge to the machine: words that processes share, sleeping on them, and whether others run.
//
// Everything that one process of an elastic job can see of another goes through here or lies in an
// area. tests/sim/elastic has a header of the same name that stands in for this one: there every
// use of it is a step of a simulation that may be interrupted, delayed or the last one of its
// process (docs/decisions/0019). No virtual call, because the words are read in loops.
#pragma once

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>
#include <utility>

#include "absl/time/time.h"
#include "base/clock.h"
#include "shm/futex.h"
#include "shm/process.h"

namespace tide::elastic {

/// A word in shared memory. Sequentially consistent unless said otherwise.
template <typename T>
using Word = std::atomic<T>;

/// Sleeps while `word` is `seen`, at most `timeout`; may return early.
inline void AwaitChange(Word<uint32_t>& word, uint32_t seen, absl::Duration timeout) {
  shm::FutexWait(word, seen, timeout);
}
inline void WakeAll(Word<uint32_t>& word) { shm::FutexWake(word, INT_MAX); }

inline Clock& MachineClock() { return RealClock(); }
inline int32_t OwnPid() { return getpid(); }
inline uint64_t OwnStartTime() { return shm::StartTime(getpid()); }
inline bool ProcessRuns(int32_t pid, uint64_t start_time) {
  return shm::ProcessAlive(pid, start_time);
}
inline bool ProcessIsStopped(int32_t pid, uint64_t start_time) {
  return shm::ProcessStopped(pid, start_time);
}

/// A handle on another process that cannot come to mean a third one.
class ProcessHandle {
 public:
  ProcessHandle() = default;  // of one that was dead already
  /// Empty when the process is gone.
  static ProcessHandle Open(int32_t pid, uint64_t start_time) {
    auto found = shm::PidFd::Open(pid, start_time);
    return found.ok() ? ProcessHandle(*std::move(found)) : ProcessHandle();
  }
  explicit operator bool() const { return static_cast<bool>(process_); }
  bool Dead() const { return process_.Dead(); }
  void Kill() const { syscall(SYS_pidfd_send_signal, process_.fd(), SIGKILL, nullptr, 0); }

 private:
  explicit ProcessHandle(shm::PidFd process) : process_(std::move(process)) {}
  shm::PidFd process_;
};

}  // namespace tide::elastic

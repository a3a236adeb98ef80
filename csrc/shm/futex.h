// Sleeping and waking on a 32-bit word that processes share.
#pragma once

#include <atomic>
#include <cstdint>

#include "absl/time/time.h"

namespace tide::shm {

/// Sleeps while `word` equals `expected`, at most `timeout` (InfiniteDuration allowed). Returns 0
/// when woken, ETIMEDOUT, EINTR (a signal) or EAGAIN (the word differed already). The word may lie
/// in memory shared among processes (FUTEX_WAIT without PRIVATE). Spurious returns of 0 happen:
/// callers look at their condition again.
int FutexWait(std::atomic<uint32_t>& word, uint32_t expected, absl::Duration timeout);

/// Wakes at most `count` sleepers of `word`, in any process. One system call; no effect without
/// sleepers.
void FutexWake(std::atomic<uint32_t>& word, int count);

}  // namespace tide::shm

// The two futex calls.
#include "shm/futex.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

namespace tide::shm {
namespace {

// The kernel sees the atomic as a plain aligned 32-bit word.
uint32_t* Address(std::atomic<uint32_t>& word) { return reinterpret_cast<uint32_t*>(&word); }

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t));

}  // namespace

int FutexWait(std::atomic<uint32_t>& word, uint32_t expected, absl::Duration timeout) {
  timespec relative;
  timespec* limit = nullptr;
  if (timeout != absl::InfiniteDuration()) {
    relative = absl::ToTimespec(std::max(timeout, absl::ZeroDuration()));
    limit = &relative;
  }
  const long rc = syscall(SYS_futex, Address(word), FUTEX_WAIT, expected, limit, nullptr, 0);
  return rc == 0 ? 0 : errno;
}

void FutexWake(std::atomic<uint32_t>& word, int count) {
  syscall(SYS_futex, Address(word), FUTEX_WAKE, count, nullptr, nullptr, 0);
}

}  // namespace tide::shm

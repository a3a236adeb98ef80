// Tells the thread sanitizer about absl::Mutex and absl::CondVar. Debian's Abseil is not built with
// it, so their atomic operations are invisible and whatever they guard would look like a race. The
// functions here stand before the library's and call them.
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include "absl/synchronization/mutex.h"

extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
}

namespace {

/// Conditions of waiters run inside of the library on the thread that unlocks, under the lock but
/// after the sanitizer was told of its release.
class Inside {
 public:
  Inside() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__); }
  ~Inside() { AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
};

template <typename Function>
Function* Next(const char* symbol) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, symbol));
}

}  // namespace

#define TIDE_MUTEX(suffix) "_ZN4absl7debian35Mutex" suffix
#define TIDE_CONDITION_VARIABLE(suffix) "_ZN4absl7debian37CondVar" suffix

namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  static const auto lock = Next<void(Mutex*)>(TIDE_MUTEX("4LockEv"));
  lock(this);
  __tsan_acquire(this);
}

bool Mutex::TryLock() {
  static const auto lock = Next<bool(Mutex*)>(TIDE_MUTEX("7TryLockEv"));
  const bool locked = lock(this);
  if (locked) __tsan_acquire(this);
  return locked;
}

void Mutex::Unlock() {
  static const auto unlock = Next<void(Mutex*)>(TIDE_MUTEX("6UnlockEv"));
  __tsan_release(this);
  const Inside inside;
  unlock(this);
}

void Mutex::ReaderLock() {
  static const auto lock = Next<void(Mutex*)>(TIDE_MUTEX("10ReaderLockEv"));
  lock(this);
  __tsan_acquire(this);
}

void Mutex::ReaderUnlock() {
  static const auto unlock = Next<void(Mutex*)>(TIDE_MUTEX("12ReaderUnlockEv"));
  __tsan_release(this);
  const Inside inside;
  unlock(this);
}

void Mutex::Await(const Condition& condition) {
  static const auto await =
      Next<void(Mutex*, const Condition*)>(TIDE_MUTEX("5AwaitERKNS0_9ConditionE"));
  __tsan_release(this);
  {
    const Inside inside;
    await(this, &condition);
  }
  __tsan_acquire(this);
}

bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  static const auto await = Next<bool(Mutex*, const Condition*, Duration)>(
      TIDE_MUTEX("16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE"));
  __tsan_release(this);
  bool result = false;
  {
    const Inside inside;
    result = await(this, &condition, timeout);
  }
  __tsan_acquire(this);
  return result;
}

void CondVar::Wait(Mutex* mutex) {
  static const auto wait =
      Next<void(CondVar*, Mutex*)>(TIDE_CONDITION_VARIABLE("4WaitEPNS0_5MutexE"));
  __tsan_release(mutex);
  {
    const Inside inside;
    wait(this, mutex);
  }
  __tsan_acquire(mutex);
}

bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  static const auto wait = Next<bool(CondVar*, Mutex*, Duration)>(
      TIDE_CONDITION_VARIABLE("15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE"));
  __tsan_release(mutex);
  bool result = false;
  {
    const Inside inside;
    result = wait(this, mutex, timeout);
  }
  __tsan_acquire(mutex);
  return result;
}

ABSL_NAMESPACE_END
}  // namespace absl

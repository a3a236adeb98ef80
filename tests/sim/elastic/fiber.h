// A stack of its own for a simulated process, and switching that the sanitizers can follow.
#pragma once

#include <ucontext.h>

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace tide::elastic::simulated {

/// A context that can be left and entered again. One of them is the thread that runs them all; its
/// stack is known from the first switch away from it.
struct Fiber {
  ucontext_t context;
  const void* stack = nullptr;
  size_t stack_bytes = 0;
  void* sanitizer = nullptr;  // what it keeps of this fiber while another runs
};

/// Before the first switch to `fiber`, whose stack is set.
inline void Prepare(Fiber& fiber) {
  (void)fiber;
#if defined(__SANITIZE_THREAD__)
  fiber.sanitizer = __tsan_create_fiber(0);
#endif
}

/// After it has been left for ever.
inline void Forget(Fiber& fiber) {
  (void)fiber;
#if defined(__SANITIZE_THREAD__)
  __tsan_destroy_fiber(fiber.sanitizer);
#endif
  fiber.sanitizer = nullptr;
}

/// First in a new fiber that `from` has switched to.
inline void Arrive(Fiber& from) {
  (void)from;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &from.stack, &from.stack_bytes);
#endif
}

/// Returns when somebody switches to `from` again.
inline void Switch(Fiber& from, Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.sanitizer, to.stack, to.stack_bytes);
#elif defined(__SANITIZE_THREAD__)
  from.sanitizer = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(to.sanitizer, 0);
#endif
  swapcontext(&from.context, &to.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.sanitizer, nullptr, nullptr);
#endif
}

/// Last in a fiber; does not return.
inline void Depart(Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(nullptr, to.stack, to.stack_bytes);
#elif defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(to.sanitizer, 0);
#endif
  setcontext(&to.context);
}

}  // namespace tide::elastic::simulated

// The C function table through which a framework adapter (one per torch version) reaches the core.
// No Abseil, no C++ types: the adapter and the core may be built by different compilers. Versioned:
// fields are only added.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define TIDE_CORE_API_VERSION 1
#define TIDE_CORE_API_CAPSULE "torchtide._core.api"

enum TideAllocateResult {
  TIDE_ALLOCATED = 0,      // *out is ours
  TIDE_PASS_THROUGH = 1,   // too small, switched off or a forked child: use the previous allocator
  TIDE_OUT_OF_MEMORY = 2,  // message_out explains; raise the framework's out-of-memory error
};

/// What operators are reported for: bits.
enum TideOperators {
  TIDE_OPERATORS_RECORD = 1,  // next_operator and touch
  TIDE_OPERATORS_PACE = 2,    // pace_operator
};

/// What segment_allocate and segment_release say besides the driver's own results.
enum { TIDE_NOT_OURS = -1 };

/// One entry of a framework's table of driver calls: what may stand there now, and what shall.
struct TideCudaCall {
  const char* name;
  void* replacement;          // with the driver's own signature
  const void* candidates[3];  // addresses of the driver's call; null: none
};

struct TideCoreApi {
  uint32_t version;
  uint32_t struct_size;
  /// Any thread, no GIL needed, may wait with a deadline. `message_out` gets a zero-terminated
  /// text.
  int (*allocate)(size_t size, void** out, char* message_out, size_t message_size);
  int (*owns)(const void* pointer);
  void (*release)(void* pointer);
  /// Called for each operator while the gate is armed: its number, then what it uses.
  void (*next_operator)(void);
  void (*touch)(const void* pointer, size_t size);
  /// Null and 0 until device memory has been started.
  const struct TideCudaCall* cuda_calls;
  int32_t cuda_call_count;
  /// Called for each operator while it is wanted for pace; waits there if `may_wait`, in which case
  /// the caller must hold no lock of the interpreter.
  void (*pace_operator)(int may_wait);
  /// As cudaMalloc on `device` and as cudaFree, for a framework whose table of driver calls is out
  /// of reach. Results are the driver's (0: done, 2: out of memory); TIDE_NOT_OURS: ask the
  /// framework's own function. Any thread, no interpreter's lock needed, may wait with a deadline.
  int (*segment_allocate)(int device, size_t size, void** out);
  int (*segment_release)(void* at);
  /// Called for each storage of a device that an operator uses while that is wanted: waits for
  /// what of it is on its way back. Any thread, the interpreter's lock held or not.
  void (*use_storage)(const void* at, size_t size);
  /// Called when a backward begins, as often as its functions.
  void (*backward)(void);
};

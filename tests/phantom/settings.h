// What the environment says about the phantom GPU; read once, at the first driver call.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <string>

namespace phantom {

/// How late an operation that was put on a stream really happens.
enum class Delay {
  kNone = 0,   // at the call
  kLate = 1,   // when something waits for it, so that a missing wait is seen
  kTimed = 2,  // after its stated duration
};

struct Settings {
  int devices;              // TIDE_PHANTOM_DEVICES, 1
  size_t capacity_bytes;    // TIDE_PHANTOM_MB, 81920: of each device
  size_t context_bytes;     // TIDE_PHANTOM_CONTEXT_MB, 0: charged for a process's context on each
  std::string name;         // TIDE_PHANTOM_NAME, "default": processes of one name share the devices
  std::string directory;    // TIDE_PHANTOM_DIR, /dev/shm
  std::string device_name;  // TIDE_PHANTOM_GPU
  Delay delay;              // TIDE_PHANTOM_DELAY, 0
  double kernel_us;         // TIDE_PHANTOM_KERNEL_US, 0: duration of a kernel under kTimed
  double copy_gbps;         // TIDE_PHANTOM_COPY_GBPS, 0 (at once): under kTimed
  bool host_numa;  // TIDE_PHANTOM_HOST_NUMA, 0: whether physical memory of the host can be mapped
  bool green_contexts;  // TIDE_PHANTOM_GREEN, 1: whether there are shares of multiprocessors
  bool checkpoints;     // TIDE_PHANTOM_CHECKPOINT, 1: whether processes can be checkpointed
  bool quiet;           // TIDE_PHANTOM_QUIET, 0: do not say on stderr why a call was refused
  std::string trace;  // TIDE_PHANTOM_TRACE: a file that gets a line for each call of virtual memory
  std::string faults;  // TIDE_PHANTOM_FAULTS, "CALL:SKIP:ERROR[:TIMES],..."; ERROR -1: it says that
                       // it has worked, and has done nothing
};

/// Changed by tests in process only before threads use the device.
Settings& GetSettings();

/// One line in the trace, where one is written: a call that succeeded, numbers in hexadecimal.
void Trace(const char* call, std::initializer_list<unsigned long long> numbers);

/// One line on stderr saying why a call is refused.
void Complain(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace phantom

// Measures what the arena does not own: bytes of the process and its children as the kernel counts
// them.
#pragma once

#include <sys/types.h>

#include <vector>

#include "base/bytes.h"

namespace tide::runtime {

/// Anonymous memory of the process tree under `pid` and its page tables. With children the
/// proportional share is summed, since fork shares pages; without, the cheaper resident count is
/// exact.
struct ProcessMemory {
  Bytes anonymous;
  Bytes page_tables;
  std::vector<pid_t> children;  // direct and indirect
};
ProcessMemory MeasureProcessTree(pid_t pid);

/// Direct and indirect children.
std::vector<pid_t> Descendants(pid_t pid);

/// What the CPU device can hold: free memory of the machine plus what is used on the device
/// already, less `reserve`, at most what the memory cgroup of this process allows.
Bytes DeriveCapacity(Bytes used_on_device, Bytes reserve);

/// How much of `held` bytes a process that does not need them now may keep: at most `wish`, and
/// only while half of the machine's memory stays free for others.
Bytes AffordableReserve(Bytes held, Bytes wish);

}  // namespace tide::runtime

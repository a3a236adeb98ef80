// Fault points: named places where a test makes an operation fail; free when no fault is armed.
#pragma once

#include <atomic>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace tide {

namespace fault_internal {
extern std::atomic<int> armed_count;
absl::Status Check(absl::string_view point);
}  // namespace fault_internal

/// Returns the armed error of `point` the armed number of times, else OK. Points are named
/// "room.operation", such as "pages.spill_write". Thread-safe.
inline absl::Status FaultPoint(absl::string_view point) {
  // relaxed: a test arms before it starts the threads that should see it
  if (fault_internal::armed_count.load(std::memory_order_relaxed) == 0) return absl::OkStatus();
  return fault_internal::Check(point);
}

/// Makes `point` fail with `error` after `skip` successes, `times` times. For tests.
void ArmFault(absl::string_view point, absl::Status error, int skip = 0, int times = 1);
/// Forgets all armed faults.
void DisarmFaults();

}  // namespace tide

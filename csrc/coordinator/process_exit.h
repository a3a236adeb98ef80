// How a process that is not our child ended, read in the moment between its death and its parent's
// wait.
#pragma once

#include "absl/strings/string_view.h"
#include "coordinator/decide.h"

namespace tide::coordinator {

/// Reads /proc/PID/stat of a zombie. Empty when its parent has waited for it already, the pid is
/// another process's, or the kernel hides it.
ExitStatus ReadExitStatus(int64_t pid, int64_t start_time);

/// The fields of one line of /proc/PID/stat; empty unless it is a zombie with this start time.
ExitStatus ParseExitStatus(absl::string_view line, int64_t start_time);

}  // namespace tide::coordinator

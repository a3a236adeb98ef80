// Small pieces of the sentences that people read.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "wire/value.h"

namespace tide::coordinator {

/// "310 ms", "12 s", "3 min 20 s", "2 h 5 min".
std::string Span(absl::Duration duration);
/// "700 MiB"; "none" for 0, as of a limit.
std::string Limit(int64_t bytes);
/// "320 MiB" as FormatBytes, from a bare integer.
std::string Size(int64_t bytes);
/// "SIGKILL" for 9; empty for a number without a common name.
absl::string_view SignalName(int64_t signal);
/// "persistent 900 MiB, pinned 200 MiB" from a map of bytes.
std::string Parts(const wire::Value::Map& parts);
/// "1 process", "2 processes".
std::string Processes(int64_t count);
/// "train" of "train[2]": the processes of a job are called after it.
std::string JobOfProcess(absl::string_view name);

}  // namespace tide::coordinator

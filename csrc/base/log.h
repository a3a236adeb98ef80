// The library prints nothing: it hands key=value lines to a sink that the program chooses.
#pragma once

#include <functional>
#include <string>

#include "absl/strings/string_view.h"

namespace tide {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

using LogSink = std::function<void(LogLevel, const std::string&)>;

/// Replaces the sink; the default drops everything. Thread-safe.
void SetLogSink(LogSink sink);
/// One line "event=... key=value ...". Never called on the allocation path.
void Log(LogLevel level, absl::string_view line);

}  // namespace tide

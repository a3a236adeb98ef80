// Durations, sizes and signals as people say them.
#include "coordinator/text.h"

#include <signal.h>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"

namespace tide::coordinator {

std::string Span(absl::Duration duration) {
  const int64_t ms = absl::ToInt64Milliseconds(duration);
  if (ms < 1) return absl::StrCat(absl::ToInt64Microseconds(duration), " us");
  if (ms < 10'000)
    return ms < 1000 ? absl::StrCat(ms, " ms")
                     : absl::StrCat(ms / 1000, ".", ms % 1000 / 100, " s");
  const int64_t seconds = ms / 1000;
  if (seconds < 60) return absl::StrCat(seconds, " s");
  if (seconds < 3600) return absl::StrCat(seconds / 60, " min ", seconds % 60, " s");
  return absl::StrCat(seconds / 3600, " h ", seconds % 3600 / 60, " min");
}

std::string Limit(int64_t bytes) { return bytes == 0 ? "none" : Size(bytes); }

std::string Size(int64_t bytes) { return FormatBytes(Bytes(bytes)); }

absl::string_view SignalName(int64_t signal) {
  switch (signal) {
    case SIGKILL:
      return "SIGKILL";
    case SIGTERM:
      return "SIGTERM";
    case SIGINT:
      return "SIGINT";
    case SIGSEGV:
      return "SIGSEGV";
    case SIGABRT:
      return "SIGABRT";
    case SIGBUS:
      return "SIGBUS";
    case SIGHUP:
      return "SIGHUP";
    case SIGFPE:
      return "SIGFPE";
    default:
      return "";
  }
}

std::string Processes(int64_t count) {
  return absl::StrCat(count, count == 1 ? " process" : " processes");
}

std::string JobOfProcess(absl::string_view name) {
  return std::string(name.substr(0, name.find('[')));
}

std::string Parts(const wire::Value::Map& parts) {
  std::string text;
  for (const auto& [name, value] : parts) {
    const int64_t* bytes = value.As<int64_t>();
    if (bytes == nullptr) continue;
    absl::StrAppend(&text, text.empty() ? "" : ", ", name, " ", Size(*bytes));
  }
  return text;
}

}  // namespace tide::coordinator

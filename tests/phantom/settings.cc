#include "phantom/settings.h"

#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace phantom {
namespace {

std::string Text(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : otherwise;
}
long Number(const char* name, const char* otherwise) {
  return std::strtol(Text(name, otherwise).c_str(), nullptr, 0);
}

Settings Read() {
  Settings settings;
  settings.devices = static_cast<int>(Number("TIDE_PHANTOM_DEVICES", "1"));
  settings.capacity_bytes = static_cast<size_t>(Number("TIDE_PHANTOM_MB", "81920")) << 20;
  settings.context_bytes = static_cast<size_t>(Number("TIDE_PHANTOM_CONTEXT_MB", "0")) << 20;
  settings.name = Text("TIDE_PHANTOM_NAME", "default");
  settings.directory = Text("TIDE_PHANTOM_DIR", "/dev/shm");
  settings.device_name = Text("TIDE_PHANTOM_GPU", "Phantom GPU");
  settings.delay = static_cast<Delay>(Number("TIDE_PHANTOM_DELAY", "0"));
  settings.kernel_us = static_cast<double>(Number("TIDE_PHANTOM_KERNEL_US", "0"));
  settings.copy_gbps = static_cast<double>(Number("TIDE_PHANTOM_COPY_GBPS", "0"));
  settings.host_numa = Number("TIDE_PHANTOM_HOST_NUMA", "0") != 0;
  settings.green_contexts = Number("TIDE_PHANTOM_GREEN", "1") != 0;
  settings.checkpoints = Number("TIDE_PHANTOM_CHECKPOINT", "1") != 0;
  settings.quiet = Number("TIDE_PHANTOM_QUIET", "0") != 0;
  settings.trace = Text("TIDE_PHANTOM_TRACE", "");
  settings.faults = Text("TIDE_PHANTOM_FAULTS", "");
  return settings;
}

}  // namespace

Settings& GetSettings() {
  static Settings& settings = *new Settings(Read());
  return settings;
}

void Trace(const char* call, std::initializer_list<unsigned long long> numbers) {
  const std::string& path = GetSettings().trace;
  if (path.empty()) return;
  static FILE* const file = std::fopen(path.c_str(), "ae");
  if (file == nullptr) return;
  std::string line = call;
  char text[32];
  for (unsigned long long number : numbers) {
    std::snprintf(text, sizeof text, " %llx", number);
    line += text;
  }
  line += '\n';
  std::fwrite(line.data(), 1, line.size(), file);  // one write: threads do not mix lines
  std::fflush(file);
}

void Complain(const char* format, ...) {
  if (GetSettings().quiet) return;
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "phantom[%d]: %s\n", static_cast<int>(getpid()), text);
}

}  // namespace phantom

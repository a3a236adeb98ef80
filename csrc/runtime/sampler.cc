#include "runtime/sampler.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "shm/process.h"

namespace tide::runtime {
namespace {

/// Value in kB of the line "KEY: N kB" in a proc file.
Bytes KilobytesOf(const std::string& text, absl::string_view key) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (!absl::StartsWith(line, key)) continue;
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    int64_t value = 0;
    if (words.size() >= 2 && absl::SimpleAtoi(words[1], &value)) return KiB(value);
  }
  return Bytes(0);
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

Bytes LimitIn(const std::string& path) {
  int64_t value = 0;
  if (!absl::SimpleAtoi(ReadFile(path), &value) || value <= 0) return GiB(1 << 20);
  return Bytes(value);
}

Bytes CgroupLimit() {
  Bytes limit = GiB(1 << 20);
  for (absl::string_view line :
       absl::StrSplit(ReadFile("/proc/self/cgroup"), '\n', absl::SkipEmpty())) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    if (parts[1] == "memory") {
      limit = std::min(limit, LimitIn(absl::StrCat("/sys/fs/cgroup/memory", parts[2],
                                                   "/memory.limit_in_bytes")));
    } else if (parts[1].empty()) {
      limit = std::min(limit, LimitIn(absl::StrCat("/sys/fs/cgroup", parts[2], "/memory.max")));
    }
  }
  return limit;
}

}  // namespace

std::vector<pid_t> Descendants(pid_t pid) {
  std::vector<pid_t> found;
  std::vector<pid_t> open{pid};
  while (!open.empty() && found.size() < 4096) {
    const pid_t parent = open.back();
    open.pop_back();
    // Children of the main thread; a thread that forks is the exception and is seen through the
    // parent's sum only.
    for (absl::string_view word :
         absl::StrSplit(ReadFile(absl::StrCat("/proc/", parent, "/task/", parent, "/children")),
                        ' ', absl::SkipWhitespace())) {
      pid_t child = 0;
      if (!absl::SimpleAtoi(word, &child)) continue;
      found.push_back(child);
      open.push_back(child);
    }
  }
  return found;
}

ProcessMemory MeasureProcessTree(pid_t pid) {
  ProcessMemory memory;
  const std::vector<pid_t> children = Descendants(pid);
  memory.children = children;
  const std::string status = ReadFile(absl::StrCat("/proc/", pid, "/status"));
  memory.page_tables = KilobytesOf(status, "VmPTE:");
  if (children.empty()) {
    memory.anonymous = KilobytesOf(status, "RssAnon:");
    return memory;
  }
  memory.anonymous = shm::AnonymousBytes(pid);
  for (pid_t child : children) {
    memory.anonymous += shm::AnonymousBytes(child);
    memory.page_tables += KilobytesOf(ReadFile(absl::StrCat("/proc/", child, "/status")), "VmPTE:");
  }
  return memory;
}

Bytes DeriveCapacity(Bytes used_on_device, Bytes reserve) {
  const Bytes available = KilobytesOf(ReadFile("/proc/meminfo"), "MemAvailable:");
  return std::max(std::min(used_on_device + available, CgroupLimit()) - reserve, MiB(1));
}

Bytes AffordableReserve(Bytes held, Bytes wish) {
  const std::string figures = ReadFile("/proc/meminfo");
  const Bytes half(KilobytesOf(figures, "MemTotal:").value() / 2);
  const Bytes free = KilobytesOf(figures, "MemAvailable:") + held;
  return std::max(std::min(wish, free - half), Bytes(0));
}

}  // namespace tide::runtime

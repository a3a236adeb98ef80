// tided: serves one user's jobs on one machine.
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "coordinator/daemonize.h"
#include "coordinator/server.h"
#include "shm/runtime_dir.h"

namespace tide::coordinator {
namespace {

constexpr char kUsage[] =
    "usage: tided [--runtime-dir DIR] [--idle-exit-s SECONDS] [--foreground]\n"
    "\n"
    "Serves the jobs of one user on this machine. Started by the first job or by `tide`; a second "
    "one of\n"
    "the same folder ends at once.\n"
    "  --runtime-dir DIR       where the socket, the journal and the log are; default: "
    "TIDE_RUNTIME_DIR,\n"
    "                          $XDG_RUNTIME_DIR/torchtide or /tmp/torchtide-UID\n"
    "  --idle-exit-s SECONDS   end when there was no job and no client for so long; 0: never; "
    "default 60\n"
    "  --foreground            stay in this terminal and log to it\n";

struct Arguments {
  std::string runtime_dir = shm::RuntimeDir();
  int64_t idle_exit_s = 60;
  bool foreground = false;
  bool help = false;
};

absl::StatusOr<Arguments> Parse(int count, char** words) {
  Arguments arguments;
  for (int i = 1; i < count; ++i) {
    const absl::string_view word = words[i];
    const char* next = i + 1 < count ? words[i + 1] : nullptr;
    if (word == "--foreground") {
      arguments.foreground = true;
    } else if (word == "--help" || word == "-h") {
      arguments.help = true;
    } else if (word == "--runtime-dir" && next != nullptr) {
      arguments.runtime_dir = next;
      ++i;
    } else if (word == "--idle-exit-s" && next != nullptr &&
               absl::SimpleAtoi(next, &arguments.idle_exit_s) && arguments.idle_exit_s >= 0) {
      ++i;
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("tided: cannot read \"", word, "\"\n", kUsage));
    }
  }
  return arguments;
}

void LogToStderr() {
  SetLogSink([](LogLevel level, const std::string& line) {
    if (level == LogLevel::kDebug) return;
    constexpr const char* kNames[] = {"debug", "info", "warning", "error"};
    const std::string time =
        absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
    fprintf(stderr, "time=%s level=%s %s\n", time.c_str(), kNames[static_cast<int>(level)],
            line.c_str());
  });
}

/// A connection and a pidfd for each job need more descriptors than the usual soft limit.
void RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

void WritePidFile(const std::string& path) {
  const UniqueFd file(
      open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
  const std::string text = absl::StrCat(getpid(), "\n");
  if (!file || write(file.get(), text.data(), text.size()) < 0) {
    Log(LogLevel::kWarning, absl::StrCat("event=pid_file_unwritable path=", path));
  }
}

absl::Status ServeHere(const Arguments& arguments, const std::function<void()>& ready) {
  LogToStderr();
  RaiseDescriptorLimit();
  signal(SIGPIPE, SIG_IGN);
  const std::string pid_path = absl::StrCat(arguments.runtime_dir, "/tided.pid");
  WritePidFile(pid_path);
  ServerOptions options;
  options.runtime_dir = arguments.runtime_dir;
  options.idle_exit = absl::Seconds(arguments.idle_exit_s);
  const absl::Status served = Serve(options, RealClock(), ready);
  if (!served.ok())
    Log(LogLevel::kError, absl::StrCat("event=daemon_failed reason=\"", served.message(), "\""));
  unlink(pid_path.c_str());
  return served;
}

absl::Status Main(const Arguments& arguments) {
  umask(0077);
  TIDE_RETURN_IF_ERROR(shm::OpenRuntimeDir(arguments.runtime_dir).status());
  TIDE_ASSIGN_OR_RETURN(const auto lock, BecomeTheOnlyOne(arguments.runtime_dir, absl::Seconds(5)));
  if (!lock) return absl::OkStatus();  // another one serves
  if (arguments.foreground) return ServeHere(arguments, [] {});
  return RunDetached(arguments.runtime_dir, lock->get(), [&](const std::function<void()>& ready) {
    return ServeHere(arguments, ready);
  });
}

}  // namespace
}  // namespace tide::coordinator

int main(int count, char** words) {
  auto arguments = tide::coordinator::Parse(count, words);
  if (!arguments.ok()) {
    fprintf(stderr, "%s", std::string(arguments.status().message()).c_str());
    return 2;
  }
  if (arguments->help) {
    printf("%s", tide::coordinator::kUsage);
    return 0;
  }
  // A relative folder must mean the same after the daemon has left this one.
  char cwd[4096];
  if (!arguments->runtime_dir.empty() && arguments->runtime_dir[0] != '/' &&
      getcwd(cwd, sizeof cwd) != nullptr) {
    arguments->runtime_dir = std::string(cwd) + "/" + arguments->runtime_dir;
  }
  const absl::Status ended = tide::coordinator::Main(*arguments);
  if (ended.ok()) return 0;
  fprintf(stderr, "tided: %s\n", std::string(ended.message()).c_str());
  return 1;
}

// tided: serves one user's jobs on one machine.
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "coordinator/arguments.h"
#include "coordinator/daemonize.h"
#include "coordinator/server.h"
#include "shm/runtime_dir.h"

namespace tide::coordinator {
namespace {

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
  const std::string pid_path = absl::StrCat(arguments.server.runtime_dir, "/tided.pid");
  WritePidFile(pid_path);
  const absl::Status served = Serve(arguments.server, RealClock(), ready);
  if (!served.ok())
    Log(LogLevel::kError, absl::StrCat("event=daemon_failed reason=\"", served.message(), "\""));
  unlink(pid_path.c_str());
  return served;
}

absl::Status Main(const Arguments& arguments) {
  umask(0077);
  TIDE_RETURN_IF_ERROR(shm::OpenRuntimeDir(arguments.server.runtime_dir).status());
  TIDE_ASSIGN_OR_RETURN(const auto lock,
                        BecomeTheOnlyOne(arguments.server.runtime_dir, absl::Seconds(5)));
  if (!lock) {  // another one serves
    const ServerOptions& asked = arguments.server;
    if (!asked.gate.listen.empty() || !asked.link.join.empty() || !asked.http_listen.empty()) {
      fprintf(stderr,
              "tided: another tided serves %s, as it was started; --listen, --join and --http "
              "change nothing. `tide shutdown` first, or give this one a --runtime-dir\n",
              asked.runtime_dir.c_str());
    }
    return absl::OkStatus();
  }
  if (arguments.foreground) return ServeHere(arguments, [] {});
  return RunDetached(
      arguments.server.runtime_dir, lock->get(),
      [&](const std::function<void()>& ready) { return ServeHere(arguments, ready); });
}

}  // namespace
}  // namespace tide::coordinator

namespace {

/// A relative path must mean the same after the daemon has left this folder.
void MakeAbsolute(std::string& path) {
  char cwd[4096];
  if (path.empty() || path[0] == '/' || getcwd(cwd, sizeof cwd) == nullptr) return;
  path = std::string(cwd) + "/" + path;
}

}  // namespace

int main(int count, char** words) {
  auto arguments = tide::coordinator::ParseArguments(count, words);
  if (!arguments.ok()) {
    fprintf(stderr, "%s", std::string(arguments.status().message()).c_str());
    return 2;
  }
  if (arguments->help) {
    printf("%s", tide::coordinator::kUsage);
    return 0;
  }
  tide::coordinator::ServerOptions& server = arguments->server;
  for (std::string* path :
       {&server.runtime_dir, &server.gate.secret_file, &server.link.secret_file,
        &server.gate.tls.certificate, &server.gate.tls.key, &server.link.files.authority,
        &server.decision_log, &server.http_token_file}) {
    MakeAbsolute(*path);
  }
  const absl::Status ended = tide::coordinator::Main(*arguments);
  if (ended.ok()) return 0;
  fprintf(stderr, "tided: %s\n", std::string(ended.message()).c_str());
  return 1;
}

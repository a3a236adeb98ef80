// Locks, forks and redirections of a daemon's start.
#include "coordinator/daemonize.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "wire/unix_channel.h"

namespace tide::coordinator {
namespace {

constexpr int64_t kLogBytesMax = 4 << 20;
constexpr int kPollMs = 10;
constexpr char kReady = '+';

void CloseOthers(int kept_a, int kept_b) {
  DIR* listing = opendir("/proc/self/fd");
  if (listing == nullptr) return;
  std::vector<int> open_fds;
  while (const dirent* entry = readdir(listing)) open_fds.push_back(atoi(entry->d_name));
  closedir(listing);
  for (int fd : open_fds) {
    if (fd > STDERR_FILENO && fd != kept_a && fd != kept_b) close(fd);
  }
}

void RedirectOutputs(const std::string& runtime_dir) {
  const std::string path = absl::StrCat(runtime_dir, "/tided.log");
  struct stat info;
  if (stat(path.c_str(), &info) == 0 && info.st_size > kLogBytesMax) {
    rename(path.c_str(), absl::StrCat(path, ".1").c_str());
  }
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  const int log = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
  dup2(null, STDIN_FILENO);
  dup2(log >= 0 ? log : null, STDOUT_FILENO);
  dup2(log >= 0 ? log : null, STDERR_FILENO);
}

void RestoreSignals() {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  for (int number : {SIGTERM, SIGINT, SIGCHLD, SIGQUIT}) signal(number, SIG_DFL);
  for (int number : {SIGHUP, SIGPIPE}) signal(number, SIG_IGN);
}

/// What came through the pipe: the ready byte, or why there is none.
absl::Status AwaitReady(int fd) {
  std::string text;
  char bytes[512];
  while (true) {
    const ssize_t got = read(fd, bytes, sizeof bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    text.append(bytes, static_cast<size_t>(got));
    if (text[0] == kReady) return absl::OkStatus();
  }
  return absl::UnavailableError(text.empty() ? "tided ended while it started; see tided.log"
                                             : text);
}

}  // namespace

absl::StatusOr<std::optional<UniqueFd>> BecomeTheOnlyOne(const std::string& runtime_dir,
                                                         absl::Duration patience) {
  const std::string path = absl::StrCat(runtime_dir, "/tided.lock");
  UniqueFd lock(open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!lock) return ErrnoStatus(absl::StrCat("cannot open ", path));
  const absl::Time deadline = absl::Now() + patience;
  while (true) {
    if (flock(lock.get(), LOCK_EX | LOCK_NB) == 0) return std::optional<UniqueFd>(std::move(lock));
    if (errno != EWOULDBLOCK && errno != EINTR)
      return ErrnoStatus(absl::StrCat("cannot lock ", path));
    if (wire::ConnectUnix(absl::StrCat(runtime_dir, "/tided.sock")).ok())
      return std::optional<UniqueFd>();
    if (absl::Now() >= deadline) {
      return absl::UnavailableError(
          absl::StrCat("another tided holds ", path, " and does not answer within ",
                       absl::FormatDuration(patience), "; see ", runtime_dir, "/tided.log"));
    }
    poll(nullptr, 0, kPollMs);
  }
}

absl::Status RunDetached(
    const std::string& runtime_dir, int kept_fd,
    const std::function<absl::Status(const std::function<void()>& ready)>& body) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus("pipe");
  const pid_t child = fork();
  if (child < 0) return ErrnoStatus("fork");
  if (child > 0) {
    close(ends[1]);
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    const absl::Status ready = AwaitReady(ends[0]);
    close(ends[0]);
    return ready;
  }
  setsid();
  if (fork() != 0) _exit(0);
  CloseOthers(kept_fd, ends[1]);
  RedirectOutputs(runtime_dir);
  RestoreSignals();
  if (chdir("/") != 0) _exit(1);
  bool told = false;
  const auto tell = [&](absl::string_view text) {
    if (told) return;
    told = true;
    if (write(ends[1], text.data(), text.size()) < 0) return;  // whoever started us is gone
    close(ends[1]);
  };
  const absl::Status ended = body([&] { tell(absl::string_view(&kReady, 1)); });
  if (!ended.ok()) tell(ended.message());
  _exit(ended.ok() ? 0 : 1);
}

}  // namespace tide::coordinator

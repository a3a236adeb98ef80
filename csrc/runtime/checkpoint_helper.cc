#include "runtime/checkpoint_helper.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "pages/cuda_driver.h"

namespace tide::runtime {
namespace {

// The helper's own wait for calls under way is 10 s; what is left to move is little.
constexpr absl::Duration kPatience = absl::Seconds(60);
constexpr size_t kTextMax = 1 << 16;

/// The environment without what puts libraries of others into every process.
std::vector<char*> HelperEnvironment() {
  std::vector<char*> kept;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    bool drop = false;
    for (const char* name : {"LD_PRELOAD=", "LD_AUDIT=", "CUDA_INJECTION64_PATH="})
      drop = drop || absl::StartsWith(*entry, name);
    if (!drop) kept.push_back(*entry);
  }
  kept.push_back(nullptr);
  return kept;
}

/// Attributes and actions of a start; released with it.
class SpawnPlan {
 public:
  explicit SpawnPlan(int output) {
    posix_spawn_file_actions_init(&actions_);
    posix_spawn_file_actions_addopen(&actions_, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions_, output, 1);
    posix_spawn_file_actions_adddup2(&actions_, output, 2);
    posix_spawnattr_init(&attributes_);
    // A group of its own: an interrupt at the terminal must not stop it half-way.
    posix_spawnattr_setflags(
        &attributes_, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setsigdefault(&attributes_, &all);
  }
  ~SpawnPlan() {
    posix_spawn_file_actions_destroy(&actions_);
    posix_spawnattr_destroy(&attributes_);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;

  int Start(const std::vector<std::string>& command, pid_t* pid) {
    std::vector<char*> arguments;
    for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    std::vector<char*> environment = HelperEnvironment();
    return posix_spawn(pid, arguments[0], &actions_, &attributes_, arguments.data(),
                       environment.data());
  }

 private:
  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

/// What comes until the other end is closed; false when that was not in time.
bool ReadAll(int fd, absl::Time deadline, std::string* text) {
  char buffer[4096];
  for (;;) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration() || text->size() > kTextMax) return false;
    pollfd waiting{fd, POLLIN, 0};
    const int ready = poll(&waiting, 1, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
    if (ready < 0 && errno != EINTR) return false;
    if (ready <= 0) continue;
    const ssize_t got = read(fd, buffer, sizeof buffer);
    if (got == 0) return true;
    if (got > 0) text->append(buffer, static_cast<size_t>(got));
    if (got < 0 && errno != EINTR) return false;
  }
}

}  // namespace

void CheckpointHelper::SetCommand(std::vector<std::string> command) {
  absl::MutexLock lock(&mu_);
  command_ = std::move(command);
}

absl::StatusOr<CheckpointHelper::Answer> CheckpointHelper::Run(const std::string& library,
                                                               const char* verb) {
  if (command_.empty()) {
    return absl::FailedPreconditionError("no program is known that could ask the driver for it");
  }
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    return absl::InternalError(absl::StrCat("pipe: ", std::strerror(errno)));
  const UniqueFd out(ends[0]);
  UniqueFd in(ends[1]);
  std::vector<std::string> command = command_;
  command.insert(command.end(), {library, absl::StrCat(getpid()), verb});
  pid_t pid = -1;
  if (const int error = SpawnPlan(in.get()).Start(command, &pid); error != 0) {
    return absl::InternalError(
        absl::StrCat("cannot start ", command[0], ": ", std::strerror(error)));
  }
  in.reset();
  std::string text;
  const bool ended = ReadAll(out.get(), absl::Now() + kPatience, &text);
  if (!ended) kill(pid, SIGKILL);
  while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  Answer answer;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipWhitespace())) {
    answer.last = std::string(line);
    if (line == "begun") answer.begun = true;
    if (!absl::ConsumePrefix(&line, "failed ")) continue;
    const std::pair<absl::string_view, absl::string_view> both =
        absl::StrSplit(line, absl::MaxSplits(' ', 1));
    if (!absl::SimpleAtoi(both.first, &answer.error)) answer.error = 0;
    answer.failure = std::string(both.second);
  }
  if (!ended) answer.last = answer.failure = "it did not end within a minute";
  if (answer.failure.empty()) answer.failure = answer.last;
  return answer;
}

absl::Status CheckpointHelper::Freeze(const std::string& library) {
  absl::MutexLock lock(&mu_);
  if (frozen()) return absl::OkStatus();
  // Before the driver is asked: from now on nobody may call it.
  frozen_.store(true, std::memory_order_release);
  const absl::StatusOr<Answer> answer = Run(library, "freeze");
  if (answer.ok() && answer->last == "done") return absl::OkStatus();
  if (!answer.ok() || !answer->begun || answer->last == "running") {
    frozen_.store(false, std::memory_order_release);
    return answer.ok() ? absl::InternalError(answer->failure) : answer.status();
  }
  // It broke off half-way.
  const absl::Status back = ThawLocked(library);
  return absl::InternalError(
      absl::StrCat(answer->failure, back.ok() ? "" : "; and it stays so: ", back.message()));
}

absl::Status CheckpointHelper::ThawLocked(const std::string& library) {
  TIDE_ASSIGN_OR_RETURN(const Answer answer, Run(library, "thaw"));
  if (answer.last == "done") {
    frozen_.store(false, std::memory_order_release);
    return absl::OkStatus();
  }
  return answer.error == pages::cuda::kOutOfMemory ? absl::ResourceExhaustedError(answer.failure)
                                                   : absl::InternalError(answer.failure);
}

absl::Status CheckpointHelper::Thaw(const std::string& library) {
  absl::MutexLock lock(&mu_);
  return frozen() ? ThawLocked(library) : absl::OkStatus();
}

bool CheckpointHelper::AwaitThaw(absl::Duration patience) {
  if (!frozen()) return true;
  absl::MutexLock lock(&mu_);
  return mu_.AwaitWithTimeout(
      absl::Condition(
          +[](CheckpointHelper* helper) { return !helper->frozen(); }, this),
      patience);
}

}  // namespace tide::runtime

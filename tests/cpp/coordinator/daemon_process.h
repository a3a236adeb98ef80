// The real tided in a folder of its own, and raw and full clients of it.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "cpp/shm/child_process.h"
#include "gtest/gtest.h"
#include "shm/process.h"
#include "wire/client.h"
#include "wire/unix_channel.h"

extern char** environ;

namespace tide::coordinator {

inline constexpr absl::Duration kPatience =
    absl::Seconds(30);  // for a loaded machine, never reached

/// Runs `tided` with arguments and returns its pid; output goes to /dev/null.
inline pid_t Spawn(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), TIDE_TIDED);
  std::vector<char*> words;
  for (std::string& argument : arguments) words.push_back(argument.data());
  words.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t pid = -1;
  EXPECT_EQ(posix_spawn(&pid, TIDE_TIDED, &actions, nullptr, words.data(), environ), 0);
  posix_spawn_file_actions_destroy(&actions);
  return pid;
}

inline int WaitForExit(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

class DaemonTest : public ::testing::Test {
 protected:
  ~DaemonTest() override { Kill(); }

  /// Returns once the daemon answers: its parent ends only then.
  int Start(std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {"--runtime-dir", folder(), "--idle-exit-s", "0"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return WaitForExit(Spawn(std::move(arguments)));
  }
  pid_t DaemonPid() const {
    std::ifstream file(folder() + "/tided.pid");
    pid_t pid = -1;
    file >> pid;
    return file ? pid : -1;
  }
  /// kill -9 and wait until it is gone.
  void Kill(int signal = SIGKILL) {
    const pid_t pid = DaemonPid();
    if (pid <= 0) return;
    auto handle = shm::PidFd::Open(pid, shm::StartTime(pid));
    if (!handle.ok()) return;
    kill(pid, signal);
    pollfd entry{handle->fd(), POLLIN, 0};
    EXPECT_EQ(poll(&entry, 1, static_cast<int>(absl::ToInt64Milliseconds(kPatience))), 1);
  }
  std::unique_ptr<wire::Client> Cli() const {
    auto client = wire::Client::Connect(socket(), kPatience);
    EXPECT_TRUE(client.ok()) << client.status();
    return client.ok() ? *std::move(client) : nullptr;
  }
  wire::Answer Ask(wire::Message message) const {
    auto client = Cli();
    auto answer = client->Ask(std::move(message), kPatience);
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() ? *answer : wire::Answer{};
  }
  /// The records of `ps`.
  wire::Value::Array Jobs() const {
    const wire::Answer answer = Ask(wire::Query{.what = "ps"});
    const auto* jobs = answer.data.Find("jobs")->As<wire::Value::Array>();
    return jobs ? *jobs : wire::Value::Array{};
  }
  const std::string& folder() const { return temp_.path(); }
  std::string socket() const { return folder() + "/tided.sock"; }

  testing::TempDir temp_;
};

/// A registered job without a session: frames by hand.
class RawJob {
 public:
  RawJob(const std::string& socket_path, wire::Register registration)
      : channel_(*wire::ConnectUnix(socket_path)) {
    registration.pid = getpid();
    registration.start_time = static_cast<int64_t>(shm::StartTime(getpid()));
    Say(wire::Hello{.role = wire::Role::kJob, .pid = getpid()});
    Say(std::move(registration));
    const auto welcome = Take<wire::Welcome>();
    EXPECT_TRUE(welcome.has_value());
    if (welcome) welcome_ = *welcome;
  }
  void Say(wire::Message message) {
    EXPECT_TRUE(channel_.Send(*wire::EncodeMessage(std::move(message))).ok());
  }
  template <typename M>
  std::optional<M> Take() {
    const absl::Time deadline = absl::Now() + kPatience;
    while (absl::Now() < deadline) {
      const auto frame = channel_.Receive();
      if (!frame.ok()) return std::nullopt;
      if (!*frame) {
        channel_.Wait(absl::Seconds(1));
        continue;
      }
      const auto message = wire::DecodeMessage(**frame);
      if (const M* wanted = message.ok() ? std::get_if<M>(&*message) : nullptr) return *wanted;
    }
    return std::nullopt;
  }
  const wire::Welcome& welcome() const { return welcome_; }

 private:
  wire::UnixChannel channel_;
  wire::Welcome welcome_;
};

}  // namespace tide::coordinator

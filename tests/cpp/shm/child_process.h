// Children, shared pages and private directories for tests with real processes.
#pragma once

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <functional>
#include <new>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "base/clock.h"
#include "gtest/gtest.h"
#include "shm/futex.h"

namespace tide::testing {

/// Longer than anything here takes on a loaded machine; a test that reaches it has failed.
inline constexpr absl::Duration kDeadline = absl::Seconds(60);

/// A forked child that runs `body` and exits with its result; killed and collected by the
/// destructor.
class Child {
 public:
  explicit Child(const std::function<int()>& body) : pid_(fork()) {
    if (pid_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // a crashing test leaves nobody behind
    _exit(body());
  }
  Child(Child&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}
  Child& operator=(Child&& other) noexcept {
    std::swap(pid_, other.pid_);
    return *this;
  }
  ~Child() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    Wait();
  }

  pid_t pid() const { return pid_; }
  void Signal(int signal) const { kill(pid_, signal); }
  /// Exit status, or minus the signal that ended it.
  int Wait() {
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) continue;
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  /// Returns once the child has been stopped by a signal.
  void AwaitStopped() const {
    int status = 0;
    while (waitpid(pid_, &status, WUNTRACED) < 0 && errno == EINTR) continue;
    EXPECT_TRUE(WIFSTOPPED(status));
  }
  /// Returns once the child has ended and leaves it as a zombie.
  void AwaitZombie() const {
    siginfo_t info;
    while (waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT) < 0 && errno == EINTR) {
    }
  }

 private:
  pid_t pid_;
};

/// A value of type T in memory that children forked later share.
template <typename T>
class Shared {
 public:
  Shared() {
    void* page =
        mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    value_ = new (page) T();
  }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  ~Shared() { munmap(value_, sizeof(T)); }
  T* operator->() const { return value_; }
  T& operator*() const { return *value_; }

 private:
  T* value_;
};

/// Waits for `condition`, looking whenever `news` changes (and now and then without), until the
/// deadline.
inline bool Await(std::atomic<uint32_t>& news, const std::function<bool()>& condition,
                  absl::Duration deadline = kDeadline) {
  const int64_t end = RealClock().MonotonicNanos() + absl::ToInt64Nanoseconds(deadline);
  for (;;) {
    const uint32_t seen = news.load();
    if (condition()) return true;
    if (RealClock().MonotonicNanos() > end) return false;
    shm::FutexWait(news, seen, absl::Milliseconds(2));
  }
}

inline void Announce(std::atomic<uint32_t>& news) {
  news.fetch_add(1);
  shm::FutexWake(news, 1 << 30);
}

/// A directory that goes away with its contents.
class TempDir {
 public:
  TempDir() {
    std::string pattern = ::testing::TempDir() + "tideXXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  ~TempDir() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace tide::testing

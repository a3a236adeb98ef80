// Identity and death of processes.
#include "shm/process.h"

#include <poll.h>

#include "cpp/shm/child_process.h"

namespace tide::shm {
namespace {

using testing::Child;

TEST(ProcessTest, ACommandNameMayHoldSpacesAndParentheses) {
  const auto stat = ParseProcessStat(
      "4242 (a) R 1 (b c) S 1 2 3 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 17 0 987654 10 11 12\n");
  ASSERT_TRUE(stat.has_value());
  EXPECT_EQ(stat->state, 'S');
  EXPECT_EQ(stat->thread_count, 17);
  EXPECT_EQ(stat->start_time, 987654u);
  EXPECT_FALSE(ParseProcessStat("4242 (a) R 1 2 3").has_value());
  EXPECT_FALSE(ParseProcessStat("").has_value());
}

TEST(ProcessTest, ThisProcessIsAliveUnderItsStartTimeOnly) {
  const uint64_t start = StartTime(getpid());
  EXPECT_GT(start, 0u);
  EXPECT_TRUE(ProcessAlive(getpid(), start));
  EXPECT_FALSE(ProcessAlive(getpid(), start + 1));
  EXPECT_FALSE(ProcessAlive(0, 0));
  EXPECT_FALSE(ProcessAlive(-1, start));
}

TEST(ProcessTest, AZombieIsDead) {
  Child child([] { return 0; });
  const uint64_t start = StartTime(child.pid());
  child.AwaitZombie();
  EXPECT_EQ(StartTime(child.pid()), start) << "it is still in the process table";
  EXPECT_FALSE(ProcessAlive(child.pid(), start));
}

TEST(ProcessTest, AStoppedProcessIsAliveAndStopped) {
  Child child([] { return pause(); });
  const uint64_t start = StartTime(child.pid());
  EXPECT_FALSE(ProcessStopped(child.pid(), start));
  child.Signal(SIGSTOP);
  child.AwaitStopped();
  EXPECT_TRUE(ProcessStopped(child.pid(), start));
  EXPECT_TRUE(ProcessAlive(child.pid(), start));
}

TEST(PidFdTest, TurnsReadableWhenTheProcessEnds) {
  Child child([] { return pause(); });
  const auto pidfd = PidFd::Open(child.pid(), StartTime(child.pid()));
  ASSERT_TRUE(pidfd.ok()) << pidfd.status();
  EXPECT_FALSE(pidfd->Dead());
  child.Signal(SIGKILL);
  pollfd entry{.fd = pidfd->fd(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&entry, 1, 30000), 1);
  EXPECT_TRUE(pidfd->Dead());
}

TEST(PidFdTest, DoesNotMistakeANewOwnerOfThePid) {
  Child child([] { return pause(); });
  const uint64_t start = StartTime(child.pid());
  EXPECT_TRUE(absl::IsNotFound(PidFd::Open(child.pid(), start + 1).status()));
  const pid_t pid = child.pid();
  child.Signal(SIGKILL);
  child.Wait();
  EXPECT_TRUE(absl::IsNotFound(PidFd::Open(pid, start).status()));
}

}  // namespace
}  // namespace tide::shm

// Sleeping and waking among processes.
#include "shm/futex.h"

#include <errno.h>

#include "cpp/shm/child_process.h"

namespace tide::shm {
namespace {

using testing::Child;
using testing::Shared;

struct Words {
  std::atomic<uint32_t> ping{0};
  std::atomic<uint32_t> pong{0};
};

TEST(FutexTest, ADifferentWordDoesNotSleepAndATimeoutIsOne) {
  std::atomic<uint32_t> word{1};
  EXPECT_EQ(FutexWait(word, 0, absl::InfiniteDuration()), EAGAIN);
  EXPECT_EQ(FutexWait(word, 1, absl::Milliseconds(1)), ETIMEDOUT);
  EXPECT_EQ(FutexWait(word, 1, absl::Milliseconds(-1)), ETIMEDOUT);
}

// Waits until the word is `value`; false when a sleep timed out, that is when a wake was lost.
bool AwaitValue(std::atomic<uint32_t>& word, uint32_t value) {
  for (;;) {
    const uint32_t seen = word.load();
    if (seen == value) return true;
    if (FutexWait(word, seen, absl::Seconds(30)) == ETIMEDOUT) return false;
  }
}

TEST(FutexTest, NoWakeIsLostBetweenTwoProcesses) {
  constexpr uint32_t kRounds = 20000;
  Shared<Words> words;
  Child echo([&] {
    for (uint32_t i = 1; i <= kRounds; ++i) {
      if (!AwaitValue(words->ping, i)) return 1;
      words->pong.store(i);
      FutexWake(words->pong, 1);
    }
    return 0;
  });
  for (uint32_t i = 1; i <= kRounds; ++i) {
    words->ping.store(i);
    FutexWake(words->ping, 1);
    ASSERT_TRUE(AwaitValue(words->pong, i)) << "round " << i;
  }
  EXPECT_EQ(echo.Wait(), 0);
}

}  // namespace
}  // namespace tide::shm

#include "base/log_queue.h"

#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tide {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class LogQueueTest : public ::testing::Test {
 protected:
  std::vector<std::string> Taken() {
    std::vector<std::string> texts;
    for (const LogQueue::Line& line : queue_.Take()) texts.push_back(line.text);
    return texts;
  }
  SimulatedClock clock_;
  LogQueue queue_{clock_};
};

TEST_F(LogQueueTest, WarningsAndErrorsAreKeptInTheirOrderAndLessIsNot) {
  queue_.Push(LogLevel::kError, "event=a");
  queue_.Push(LogLevel::kInfo, "event=b");
  queue_.Push(LogLevel::kWarning, "event=c");
  const auto lines = queue_.Take();
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0].text, "event=a");
  EXPECT_EQ(lines[0].level, LogLevel::kError);
  EXPECT_EQ(lines[1].level, LogLevel::kWarning);
  EXPECT_THAT(Taken(), IsEmpty());
}

TEST_F(LogQueueTest, WhatGoesOnIsSaidOnceAMinuteAndHowOftenItWasNot) {
  for (int i = 0; i < 100; ++i) {
    queue_.Push(LogLevel::kWarning, absl::StrCat("event=no_scratch status=\"", i, "\""));
    queue_.Push(LogLevel::kWarning, absl::StrCat("event=no_scratch device=1 status=\"", i, "\""));
  }
  EXPECT_THAT(Taken(), ElementsAre("event=no_scratch status=\"0\"",
                                   "event=no_scratch device=1 status=\"0\""));
  clock_.Advance(absl::Minutes(1));
  for (int i = 0; i < 3; ++i) queue_.Push(LogLevel::kWarning, "event=no_scratch status=\"new\"");
  EXPECT_THAT(Taken(), ElementsAre("event=no_scratch status=\"new\" repeated=99"));
  clock_.Advance(absl::Minutes(2));  // it was over, and is new
  queue_.Push(LogLevel::kWarning, "event=no_scratch status=\"later\"");
  EXPECT_THAT(Taken(), ElementsAre("event=no_scratch status=\"later\""));
}

TEST_F(LogQueueTest, WhatNobodyCouldReadIsCounted) {
  for (int i = 0; i < LogQueue::kLinesPerMinute + 5; ++i)
    queue_.Push(LogLevel::kWarning, absl::StrCat("event=slot slot=", i));
  EXPECT_EQ(Taken().size(), static_cast<size_t>(LogQueue::kLinesPerMinute));
  EXPECT_THAT(Taken(), IsEmpty()) << "not even the count, in this minute";
  clock_.Advance(absl::Minutes(1));
  EXPECT_THAT(Taken(), ElementsAre("event=warnings_lost count=5"));
  for (int i = 0; i < 10 * LogQueue::kLinesPerMinute; ++i) {
    if (i % LogQueue::kLinesPerMinute == 0) clock_.Advance(absl::Minutes(1));
    queue_.Push(LogLevel::kWarning, absl::StrCat("event=slot slot=", 1000 + i));
  }
  clock_.Advance(absl::Minutes(1));
  const std::vector<std::string> kept = Taken();
  EXPECT_EQ(kept.size(), static_cast<size_t>(LogQueue::kLinesKept + 1));
  EXPECT_EQ(kept.back(), absl::StrCat("event=warnings_lost count=",
                                      10 * LogQueue::kLinesPerMinute - LogQueue::kLinesKept));
}

TEST_F(LogQueueTest, ALineIsNoLongerThanOneWriteOfAPipeThatHasRoom) {
  queue_.Push(LogLevel::kError, std::string(10'000, 'x'));
  queue_.Push(LogLevel::kError, absl::StrCat("event=a \"", std::string(10'000, 'x')));
  for (const std::string& text : Taken()) EXPECT_EQ(text.size(), 2000u);
}

TEST_F(LogQueueTest, AMessageOfSeveralLinesIsOneLine) {
  queue_.Push(LogLevel::kError, "event=a status=\"b\nc\"");
  EXPECT_THAT(Taken(), ElementsAre("event=a status=\"b c\""));
}

TEST_F(LogQueueTest, AForkedChildGetsNothingAndAddsNothing) {
  queue_.Push(LogLevel::kWarning, "event=a");
  const pid_t child = fork();
  if (child == 0) {
    queue_.Push(LogLevel::kWarning, "event=b");
    _exit(queue_.Take().empty() ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_THAT(Taken(), ElementsAre("event=a"));
}

TEST_F(LogQueueTest, LinesOfManyThreadsAreAllCounted) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([this] {
      for (int n = 0; n < 1000; ++n) queue_.Push(LogLevel::kWarning, "event=a");
    });
  }
  for (std::thread& thread : threads) thread.join();
  clock_.Advance(absl::Minutes(1));
  queue_.Push(LogLevel::kWarning, "event=a");
  EXPECT_THAT(Taken(), ElementsAre("event=a", "event=a repeated=3999"));
}

}  // namespace
}  // namespace tide

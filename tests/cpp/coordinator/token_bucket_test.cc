// The bound on frames per second, on a clock of the test's own.
#include "coordinator/token_bucket.h"

#include "gtest/gtest.h"

namespace tide::coordinator {
namespace {

using std::chrono::milliseconds;

/// Takes all that there is, as a connection with many frames in its buffer does.
int Drain(TokenBucket& bucket, TokenBucket::Time now) {
  int taken = 0;
  for (; bucket.Ready(now); ++taken) bucket.Take();
  return taken;
}

TEST(TokenBucketTest, AFloodGetsTheBurstAndThenTheRate) {
  TokenBucket::Time now{};
  TokenBucket bucket(5000, 10'000, now);
  EXPECT_EQ(Drain(bucket, now), 10'000);
  EXPECT_EQ(Drain(bucket, now), 0);
  int taken = 0;
  for (int turn = 0; turn < 1000; ++turn) taken += Drain(bucket, now += milliseconds(10));
  EXPECT_NEAR(taken, 50'000, 1) << "ten seconds at 5000 a second, one frame one token";
}

TEST(TokenBucketTest, ABucketThatRunsDryFrameByFrameGivesTheRateToo) {
  TokenBucket::Time now{};
  TokenBucket bucket(1000, 1, now);
  Drain(bucket, now);
  int taken = 0;
  for (int turn = 0; turn < 1000; ++turn) taken += Drain(bucket, now += milliseconds(1));
  EXPECT_NEAR(taken, 1000, 1);
}

TEST(TokenBucketTest, QuietTimeIsNotSavedBeyondTheBurst) {
  TokenBucket::Time now{};
  TokenBucket bucket(5000, 100, now);
  EXPECT_EQ(Drain(bucket, now += std::chrono::hours(24)), 100);
  EXPECT_EQ(Drain(bucket, now), 0);
}

}  // namespace
}  // namespace tide::coordinator

// What is learnt of undisturbed stretches, and what is not.
#include "sched/usual_times.h"

#include <limits>

#include "gtest/gtest.h"

namespace tide::sched {
namespace {

// One iteration of three stretches.
double Iterate(UsualTimes& times, double scale, bool undisturbed, int kind = 2) {
  times.Begin(kind);
  double usual = 0;
  for (const double ns : {1e6, 5e6, 2e6}) usual += times.End(scale * ns, undisturbed).usual_ns;
  return usual;
}

TEST(UsualTimesTest, TwoUndisturbedIterationsAreEnough) {
  UsualTimes times;
  EXPECT_EQ(Iterate(times, 1, true), 0);
  EXPECT_EQ(Iterate(times, 1, true), 0);
  EXPECT_DOUBLE_EQ(Iterate(times, 1, true), 8e6);
}

TEST(UsualTimesTest, ADisturbanceOfAnyLengthTeachesNothing) {
  UsualTimes times;
  for (int i = 0; i < 3; ++i) Iterate(times, 1, true);
  for (int i = 0; i < 1000; ++i) Iterate(times, 1.4, false);
  EXPECT_DOUBLE_EQ(Iterate(times, 1, false), 8e6);
}

TEST(UsualTimesTest, WhatHasChangedIsForgottenWithinThirtyUndisturbedIterations) {
  UsualTimes times;
  for (int i = 0; i < 20; ++i) Iterate(times, 1, true);
  for (int i = 0; i < 30; ++i) Iterate(times, 1.5, true);
  EXPECT_NEAR(Iterate(times, 1.5, true), 12e6, 0.2e6);
}

TEST(UsualTimesTest, AnOutlierCountsFourTimesTheUsualAtMost) {
  UsualTimes times;
  for (int i = 0; i < 20; ++i) Iterate(times, 1, true);
  times.Begin(2);
  const UsualTimes::Stretch stretch = times.End(900e6, true);
  EXPECT_DOUBLE_EQ(stretch.usual_ns, 1e6);
  EXPECT_DOUBLE_EQ(stretch.took_ns, 5e6);
  EXPECT_LT(Iterate(times, 1, true), 8.6e6);
}

TEST(UsualTimesTest, KindsAreKeptApartAndTheirNumberIsBounded) {
  UsualTimes times;
  for (int i = 0; i < 3; ++i) {
    Iterate(times, 1, true, 2);
    Iterate(times, 10, true, 3);
  }
  EXPECT_DOUBLE_EQ(Iterate(times, 1, true, 2), 8e6);
  EXPECT_DOUBLE_EQ(Iterate(times, 1, true, 3), 80e6);
  for (int kind = 10; kind < 500; ++kind) {
    for (int i = 0; i < 3; ++i) Iterate(times, 1, true, kind);
  }
  EXPECT_EQ(Iterate(times, 1, true, 499), 0);
  EXPECT_DOUBLE_EQ(Iterate(times, 1, true, 2), 8e6);
}

TEST(UsualTimesTest, AnIterationWithoutEndIsBounded) {
  UsualTimes times;
  for (int i = 0; i < 3; ++i) {
    times.Begin(2);
    for (size_t k = 0; k < UsualTimes::kStretchesMax + 10; ++k) times.End(1, true);
  }
  EXPECT_EQ(times.Usual(), 0);
}

TEST(UsualTimesTest, TimesThatSayNothingTeachNothing) {
  UsualTimes times;
  for (int i = 0; i < 3; ++i) Iterate(times, 1, true);
  for (const double bad : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN(),
                           std::numeric_limits<double>::infinity()}) {
    times.Begin(2);
    EXPECT_EQ(times.End(bad, true).took_ns, 0);
  }
  EXPECT_DOUBLE_EQ(Iterate(times, 1, true), 8e6);
  EXPECT_EQ(UsualTimes().End(5, true).usual_ns, 0) << "before any Begin";
}

TEST(UsualTimesTest, WhatIsForgottenIsLearntAnew) {
  UsualTimes times;
  for (int i = 0; i < 3; ++i) Iterate(times, 1, true);
  times.Forget();
  EXPECT_EQ(Iterate(times, 2, true), 0);
  Iterate(times, 2, true);
  EXPECT_DOUBLE_EQ(Iterate(times, 2, true), 16e6);
}

}  // namespace
}  // namespace tide::sched

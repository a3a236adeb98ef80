// What moves have taken says what the next one takes.
#include "runtime/move_costs.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace tide::runtime {
namespace {

double Seconds(Bytes bytes, double gib_per_s) {
  return static_cast<double>(bytes.value()) / (gib_per_s * (1 << 30));
}

/// A device and its host: 41 GiB/s once pinned memory is there, 3.7 where it has to be made.
double Took(const MoveWork& work, double fixed_s) {
  return fixed_s + Seconds(work.pinned, 41) + Seconds(work.made, 3.7) + Seconds(work.file, 0.8);
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

TEST(MoveCostsTest, NothingToMoveTakesNoTimeAndAnythingElseSomeBeforeTheFirst) {
  const MoveCosts costs;
  EXPECT_EQ(costs.Predict({}), 0);
  EXPECT_GT(costs.Predict({.pinned = GiB(1)}), 0);
  EXPECT_GT(costs.Predict({.pinned = GiB(1), .made = GiB(1)}), costs.Predict({.pinned = GiB(1)}));
  EXPECT_GT(costs.Predict({.file = GiB(1)}), costs.Predict({.pinned = GiB(1)}));
}

TEST(MoveCostsTest, WhatMakingMemoryTookIsKeptApartFromWhatACopyTakes) {
  MoveCosts costs;
  const MoveWork first = {.pinned = GiB(8), .made = GiB(8)};
  const MoveWork later = {.pinned = GiB(8)};
  costs.Note(first, Took(first, 0));
  EXPECT_NEAR(costs.Predict(first), Took(first, 0), 1e-9);
  costs.Note(later, Took(later, 0));
  EXPECT_NEAR(costs.Predict(later), Took(later, 0), 1e-9) << "the first has not slowed it";
  const MoveWork grown = {.pinned = GiB(16), .made = GiB(8)};
  EXPECT_NEAR(costs.Predict(grown) / Took(grown, 0), 1, 0.25);
}

TEST(MoveCostsTest, TheFileHasACostOfItsOwn) {
  MoveCosts costs;
  const MoveWork in_memory = {.pinned = GiB(8)};
  const MoveWork in_file = {.pinned = GiB(1), .file = GiB(7)};
  costs.Note(in_memory, Took(in_memory, 0));
  costs.Note(in_file, Took(in_file, 0));
  EXPECT_NEAR(costs.Predict(in_memory), Took(in_memory, 0), 1e-9);
  EXPECT_NEAR(costs.Predict(in_file), Took(in_file, 0), 1e-9);
}

TEST(MoveCostsTest, OfTwentyMovesOfAnySizeTheMedianIsPredictedWithinAQuarter) {
  for (const double fixed_s : {0.0, 0.003, 0.1}) {
    for (const unsigned seed : {1, 2, 3, 4, 5}) {
      SCOPED_TRACE(testing::Message() << "fixed " << fixed_s << " s, seed " << seed);
      std::mt19937 random(seed);
      std::uniform_int_distribution<int64_t> pages(4, 1000);  // of 20 MiB
      std::uniform_real_distribution<double> noise(0.85, 1.2);
      MoveCosts costs;
      Bytes held;
      std::vector<double> errors;
      for (int i = 0; i < 20; ++i) {
        MoveWork work = {.pinned = MiB(20 * pages(random))};
        work.made = std::max(work.pinned - held, Bytes(0));
        held += work.made;
        const double took = Took(work, fixed_s) * noise(random);
        errors.push_back(std::abs(costs.Predict(work) / took - 1));
        costs.Note(work, took);
      }
      EXPECT_LT(Median(errors), 0.25);
    }
  }
}

TEST(MoveCostsTest, MovesOfSeveralSizesSayWhatIsFixedAndSmallOnesNothingOfLargeOnes) {
  MoveCosts costs;
  costs.Note({.pinned = MiB(20)}, 0.1);
  EXPECT_LT(costs.Predict({.pinned = GiB(10)}), 1.2) << "not as if a byte of it took as long";
  for (int i = 0; i < 5; ++i) {
    for (const Bytes size : {MiB(200), GiB(2)})
      costs.Note({.pinned = size}, Took({.pinned = size}, 0.1));
  }
  for (const Bytes size : {MiB(20), MiB(200), GiB(1), GiB(10)}) {
    EXPECT_NEAR(costs.Predict({.pinned = size}) / Took({.pinned = size}, 0.1), 1, 0.02);
  }
}

TEST(MoveCostsTest, AMoveThatTookLessThanItsPartsNeverMakesAPredictionNegative) {
  MoveCosts costs;
  const MoveWork work = {.pinned = GiB(1), .made = GiB(1)};
  costs.Note(work, 1e-6);
  costs.Note(work, 0);
  costs.Note({}, 5);
  EXPECT_GT(costs.Predict(work), 0);
  EXPECT_LT(costs.Predict(work), 1);
}

}  // namespace
}  // namespace tide::runtime

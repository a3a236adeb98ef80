// What is learnt of lifetimes: exact for fixed shapes, cautious with all that is new or was wrong
// once.
#include "arena/lifetimes.h"

#include <vector>

#include "gtest/gtest.h"

namespace tide::arena {
namespace {

constexpr int64_t kLearnFrom = 2;
constexpr int kEvidence = 2;

class LifetimesTest : public ::testing::Test {
 protected:
  // One iteration of allocations; sizes in MiB, negative: survives. Returns what was predicted
  // ephemeral.
  std::vector<bool> Iterate(const std::vector<int>& sizes, int32_t phase = 0) {
    lifetimes_.BeginIteration(++iteration_, phase);
    std::vector<bool> predicted;
    std::vector<Signature> names;
    for (const int size : sizes) {
      names.push_back(lifetimes_.Name(MiB(std::abs(size)), static_cast<int32_t>(names.size())));
      predicted.push_back(lifetimes_.PredictEphemeral(names.back()));
    }
    for (size_t i = 0; i < sizes.size(); ++i) {
      if (sizes[i] > 0) lifetimes_.Freed(names[i], iteration_);
      if (sizes[i] < 0) lifetimes_.Survived(names[i]);
    }
    return predicted;
  }
  using Bools = std::vector<bool>;
  Lifetimes lifetimes_{kLearnFrom, kEvidence};
  int64_t iteration_ = -1;
};

TEST_F(LifetimesTest, FixedShapesAreExactByIterationFour) {
  for (int i = 0; i < 4; ++i) EXPECT_EQ(Iterate({3, -5, 3, 7}), Bools(4, false)) << i;
  for (int i = 4; i < 9; ++i)
    EXPECT_EQ(Iterate({3, -5, 3, 7}), (Bools{true, false, true, true})) << i;
}

TEST_F(LifetimesTest, OptimizerStateOfIterationZeroIsNeverPredictedEphemeral) {
  EXPECT_EQ(Iterate({3, -3, -3, 7}), Bools(4, false));
  EXPECT_EQ(Iterate({3, 7}), Bools(2, false));
  for (int i = 2; i < 8; ++i) Iterate({3, 7});
  // As at a checkpoint's load: the state's places in the iteration are new, so nothing is assumed
  // of them.
  EXPECT_EQ(Iterate({3, -90, -3}), (Bools{true, false, false}));
}

TEST_F(LifetimesTest, ShapesThatVaryAreKnownByTheirPlaceWithinAFactorOfFour) {
  for (int i = 0; i < 4; ++i) Iterate({10 + i, -20 - i, 30 + i});
  EXPECT_EQ(Iterate({15, -26, 33}), (Bools{true, false, true}));
  EXPECT_EQ(Iterate({2, -27, 200}), (Bools{false, false, false})) << "too far from what was seen";
}

TEST_F(LifetimesTest, OneWrongPredictionDoublesTheEvidenceAskedFor) {
  for (int i = 0; i < 4; ++i) Iterate({3});
  EXPECT_EQ(Iterate({-3}), Bools{true}) << "wrong";
  for (int i = 0; i < 2 * kEvidence; ++i) EXPECT_EQ(Iterate({3}), Bools{false}) << i;
  EXPECT_EQ(Iterate({-3}), Bools{true}) << "wrong again";
  for (int i = 0; i < 4 * kEvidence; ++i) EXPECT_EQ(Iterate({3}), Bools{false}) << i;
  EXPECT_EQ(Iterate({3}), Bools{true});
}

TEST_F(LifetimesTest, TheUnknownIsPersistent) {
  for (int i = 0; i < 9; ++i) Iterate({3});
  EXPECT_FALSE(lifetimes_.PredictEphemeral(Signature())) << "of another thread";
  EXPECT_EQ(Iterate({3, 3}), (Bools{true, false})) << "one more of that size";
  EXPECT_EQ(Iterate({3}, /*phase=*/1), Bools{false}) << "another phase";
}

TEST_F(LifetimesTest, ADeathInALaterIterationIsNoEvidence) {
  for (int i = 0; i < 9; ++i) {
    lifetimes_.BeginIteration(i, 0);
    const Signature name = lifetimes_.Name(MiB(3), 0);
    EXPECT_FALSE(lifetimes_.PredictEphemeral(name));
    lifetimes_.Freed(name, i + 1);
  }
}

}  // namespace
}  // namespace tide::arena

// Laws of pace against a machine on which the loss grows with the pace.
#include "sched/pace_law.h"

#include <algorithm>
#include <limits>

#include "base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tide::sched {
namespace {

using testing::HasSubstr;

constexpr double kMs = 1e6;

PaceSample Window(double loss, double took_ms = 30) {
  PaceSample sample;
  sample.guaranteed = true;
  sample.took_ns = took_ms * kMs;
  sample.usual_ns = (1 - loss) * sample.took_ns;
  sample.steps = 1;
  sample.step_took_ns = sample.took_ns;
  sample.step_usual_ns = sample.usual_ns;
  return sample;
}

// A machine on which a job that runs all the time costs the guaranteed one `coupling` of its speed.
struct Machine {
  double coupling;
  double noise;
  uint64_t seed = 1;
};

// Mean loss and pace of the last half of `samples`.
struct Settled {
  double loss = 0;
  double pace = 0;
  double pace_lowest = 1;
};

Settled Settle(const PaceOptions& options, const Machine& machine, int samples) {
  Random random(machine.seed);
  PaceState state;
  Settled settled;
  for (int i = 0; i < samples; ++i) {
    const double noise = machine.noise * (2 * random.Unit() - 1);
    const double loss = machine.coupling * state.pace;
    state = NextPace(state, Window(loss + noise), options);
    settled.pace_lowest = std::min(settled.pace_lowest, state.pace);
    if (i < samples / 2) continue;
    settled.loss += loss / (samples - samples / 2);
    settled.pace += state.pace / (samples - samples / 2);
  }
  return settled;
}

class PaceLawTest : public testing::TestWithParam<PaceLawId> {
 protected:
  PaceOptions Options() const { return {.law = GetParam()}; }
};

INSTANTIATE_TEST_SUITE_P(Laws, PaceLawTest,
                         testing::Values(PaceLawId::kAimd, PaceLawId::kTgs, PaceLawId::kAntman),
                         [](const auto& info) { return PaceLawName(info.param); });

TEST_P(PaceLawTest, WithoutAGuaranteedJobThePaceIsOneAtOnce) {
  PaceState state{.pace = 0.02};
  state = NextPace(state, PaceSample{}, Options());
  EXPECT_EQ(state.pace, 1);
  EXPECT_FALSE(state.cut);
}

TEST_P(PaceLawTest, AFarTooSlowJobIsCutWithinOneSample) {
  const PaceState state = NextPace(PaceState{}, Window(0.4, 100), Options());
  EXPECT_LE(state.pace, 0.5);
  EXPECT_TRUE(state.cut);
  EXPECT_NEAR(state.loss, 0.4, 1e-9);
  EXPECT_STRNE(state.reason, "");
}

TEST_P(PaceLawTest, ThePaceIsNeverBelowTheLeastOrAboveOne) {
  for (const double least : {0.001, 0.02, 0.5, 1.0}) {
    PaceOptions options = Options();
    options.pace_min = least;
    Random random(7);
    PaceState state;
    for (int i = 0; i < 3000; ++i) {
      const double loss = i < 1500 ? 0.9 : 2 * random.Unit() - 1;
      state = NextPace(state, Window(loss, 1 + 500 * random.Unit()), options);
      ASSERT_GE(state.pace, least);
      ASSERT_LE(state.pace, 1);
    }
  }
}

TEST_P(PaceLawTest, NumbersThatSayNothingChangeNothing) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinite = std::numeric_limits<double>::infinity();
  const PaceState before = NextPace(PaceState{}, Window(0.5, 500), Options());
  for (const double bad : {nan, infinite, 0.0, -1.0}) {
    PaceSample sample = Window(0);
    sample.usual_ns = sample.step_usual_ns = bad;
    EXPECT_EQ(NextPace(before, sample, Options()).pace, before.pace) << bad;
    sample = Window(0);
    sample.took_ns = sample.step_took_ns = bad;
    EXPECT_EQ(NextPace(before, sample, Options()).pace, before.pace) << bad;
  }
  PaceSample nothing = Window(0);
  nothing.steps = 0;
  nothing.usual_ns = nothing.took_ns = 0;
  EXPECT_EQ(NextPace(before, nothing, Options()).pace, before.pace);
}

TEST_P(PaceLawTest, OneSampleOfAJobThatKeepsItsSpeedCutsNothing) {
  const PaceState state = NextPace(PaceState{.pace = 0.5}, Window(0), Options());
  EXPECT_GE(state.pace, 0.5);
  EXPECT_FALSE(state.cut);
}

TEST_P(PaceLawTest, WhatIsNotLearntYetIsFoundOutAtTheLeastPace) {
  PaceSample sample = Window(0);
  sample.learnt = false;
  EXPECT_EQ(NextPace(PaceState{}, sample, Options()).pace, 0.02);
}

TEST_P(PaceLawTest, RecoversWhenTheDisturbanceIsOver) {
  PaceState state;
  for (int i = 0; i < 100; ++i) state = NextPace(state, Window(0.5), Options());
  const double low = state.pace;
  for (int i = 0; i < 1500; ++i) state = NextPace(state, Window(0), Options());
  EXPECT_LT(low, 0.1);
  EXPECT_GT(state.pace, 1.5 * low);
}

TEST(PaceTest, OursConvergesBelowTheLossAllowedAndUsesMostOfIt) {
  for (const double coupling : {0.1, 0.3, 0.6}) {
    const Settled quiet = Settle({}, {.coupling = coupling, .noise = 0}, 4000);
    EXPECT_LE(quiet.loss, 0.03) << coupling;
    EXPECT_GE(quiet.loss, 0.01) << coupling;
    const Settled noisy = Settle({}, {.coupling = coupling, .noise = 0.05}, 4000);
    EXPECT_LE(noisy.loss, 0.03) << coupling;
    EXPECT_GE(noisy.pace, 0.02) << coupling;
  }
}

TEST(PaceTest, OursStillRisesOnAMachineWhoseWindowsDifferByMoreThanWhatIsAllowed) {
  Random random(3);
  PaceState state{.pace = 0.02};
  double mean = 0;
  for (int i = 0; i < 400; ++i) {
    const double noise = 0.12 * (2 * random.Unit() - 1);
    state = NextPace(state, Window(noise, 400), {});
    mean += state.pace / 400;
  }
  EXPECT_GT(mean, 0.3);
  double loss = 0;
  for (int i = 0; i < 400; ++i) {
    loss += 0.3 * state.pace / 400;
    const double noise = 0.12 * (2 * random.Unit() - 1);
    state = NextPace(state, Window(0.3 * state.pace + noise, 400), {});
  }
  EXPECT_LT(loss, 0.05) << "noise of four times the loss allowed is no licence";
}

TEST(PaceTest, OursLetsAJobRunFreelyThatDisturbsNobody) {
  EXPECT_GT(Settle({}, {.coupling = 0.005, .noise = 0.01}, 2000).pace, 0.9);
}

TEST(PaceTest, OursIsBackAtOneWithinTenSeconds) {
  PaceState state{.pace = 0.02};
  for (int i = 0; i < 10'000 / 30; ++i) state = NextPace(state, Window(0), {});
  EXPECT_EQ(state.pace, 1);
}

TEST(PaceTest, OursDoesNotCutForTheNoiseOfAFewOperators) {
  const PaceState state = NextPace(PaceState{.pace = 0.5}, Window(0.5, 5), {});
  EXPECT_EQ(state.pace, 0.5);
}

TEST(PaceTest, TgsGrowsByHalfUntilTheFirstLossAndThenByTinySteps) {
  const PaceOptions tgs{.law = PaceLawId::kTgs};
  PaceState state = NextPace(PaceState{.pace = 0.1}, Window(0, 100), tgs);
  EXPECT_NEAR(state.pace, 0.15, 1e-9);
  state = NextPace(state, Window(0.05, 100), tgs);
  EXPECT_NEAR(state.pace, 0.1, 1e-9);
  state = NextPace(state, Window(0.01, 100), tgs);
  EXPECT_NEAR(state.pace, 0.10025, 1e-9);
  state = NextPace(state, Window(0.05, 100), tgs);
  EXPECT_NEAR(state.pace, 0.10025 * 0.92, 1e-9);
  state = NextPace(state, Window(0.5, 100), tgs);
  EXPECT_EQ(state.pace, 0.02);
  EXPECT_TRUE(state.slow_start);
}

TEST(PaceTest, TgsTakesALossThatStaysForTheJobsOwn) {
  const PaceOptions tgs{.law = PaceLawId::kTgs};
  PaceState state;
  for (int i = 0; i < 20; ++i) state = NextPace(state, Window(0.15, 100), tgs);
  EXPECT_NEAR(state.reference, 0.8, 1e-9);
  state = NextPace(state, Window(0.15, 100), tgs);
  EXPECT_LT(state.loss, 0);
}

TEST(PaceTest, AntmanLooksAtWholeMiniBatchesInWholePercents) {
  const PaceOptions antman{.law = PaceLawId::kAntman};
  PaceSample sample = Window(0.5);
  sample.steps = 0;
  EXPECT_EQ(NextPace(PaceState{}, sample, antman).pace, 1);
  sample.steps = 1;
  PaceState state = NextPace(PaceState{.pace = 0.55}, sample, antman);
  EXPECT_NEAR(state.pace, 0.27, 1e-9);
  state = NextPace(state, Window(0), antman);
  EXPECT_NEAR(state.pace, 0.28, 1e-9);
}

TEST(PaceTest, OffSlowsNobody) {
  EXPECT_EQ(NextPace(PaceState{.pace = 0.1}, Window(0.9), {.law = PaceLawId::kOff}).pace, 1);
}

TEST(PaceTest, NamesAreReadBackAndOthersRefused) {
  for (const auto law : {PaceLawId::kAimd, PaceLawId::kTgs, PaceLawId::kAntman, PaceLawId::kOff}) {
    EXPECT_EQ(ParsePaceLaw(PaceLawName(law)).value(), law);
  }
  EXPECT_THAT(std::string(ParsePaceLaw("fast").status().message()),
              HasSubstr("\"fast\" is not one of aimd, tgs, antman, off"));
  EXPECT_STREQ(PaceLawName(static_cast<PaceLawId>(9)), "unknown");
}

TEST(PaceTest, OptionsOutOfRangeAreRefusedByName) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double bad : {0.0, 1.0, -0.1, nan}) {
    EXPECT_THAT(std::string(CheckPaceOptions({.loss_allowed = bad}).message()),
                HasSubstr("pace.loss_allowed"));
  }
  for (const double bad : {0.0, 1.1, -0.1, nan}) {
    EXPECT_THAT(std::string(CheckPaceOptions({.pace_min = bad}).message()), HasSubstr("pace.min"));
  }
  EXPECT_TRUE(CheckPaceOptions({}).ok());
}

}  // namespace
}  // namespace tide::sched

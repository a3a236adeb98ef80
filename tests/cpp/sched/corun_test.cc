// Speeds of jobs that share: interleaving by hand, proportions, memory curves.
#include "sched/corun.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tide::sched {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;

TEST(CorunTest, JobsWithOppositeStagesInterleavePerfectly) {
  // One needs the CPU for 3 s and the GPU for 1 s, the other the reverse: 4 s together as alone.
  const JobProfile cpu{.stage_s = {0, 3, 1, 0}}, gpu{.stage_s = {0, 1, 3, 0}};
  EXPECT_NEAR(InterleavedSeconds({{&cpu, &gpu}}), 4, 1e-12);
  EXPECT_NEAR(InterleavedSeconds({{&cpu, &cpu}}), 6, 1e-12);
  EXPECT_NEAR(InterleavedSeconds({{&cpu}}), 4, 1e-12);
}

TEST(CorunTest, SpeedsFollowTheStages) {
  Profiles profiles{.of = {{.stage_s = {0, 3, 1, 0}}, {.stage_s = {0, 1, 3, 0}}}};
  EXPECT_THAT(CorunSpeeds({{{.profile = 0}, {.profile = 1}}}, profiles), ElementsAre(1, 1));
  EXPECT_THAT(CorunSpeeds({{{.profile = 0}, {.profile = 0}}}, profiles),
              ElementsAre(DoubleNear(4.0 / 6, 1e-12), DoubleNear(4.0 / 6, 1e-12)));
  profiles.share_cost[1] = 2;
  EXPECT_THAT(CorunSpeeds({{{.profile = 0}, {.profile = 1}}}, profiles), ElementsAre(0.5, 0.5));
}

TEST(CorunTest, WithoutStagesTheTimeIsShared) {
  const Profiles profiles{.of = {{.busy = 0.4}, {.busy = 0.6}}};
  EXPECT_THAT(CorunSpeeds({{{.profile = 0}, {.profile = 1}}}, profiles), ElementsAre(1, 1));
  EXPECT_THAT(CorunSpeeds({{{.profile = 1}, {.profile = 1}}}, profiles),
              ElementsAre(DoubleNear(1 / 1.2, 1e-12), DoubleNear(1 / 1.2, 1e-12)));
  EXPECT_THAT(CorunSpeeds(std::vector<CorunMember>(2), profiles), ElementsAre(0.5, 0.5));
  EXPECT_THAT(CorunSpeeds(std::vector<CorunMember>{{.pace = 1}, {.pace = 0.25}}, profiles),
              ElementsAre(DoubleNear(0.8, 1e-12), DoubleNear(0.2, 1e-12)));
}

TEST(CorunTest, MeasuredPairsGoBeforeTheModel) {
  Profiles profiles{.of = {{.busy = 1}, {.busy = 1}}};
  profiles.pairs[{0, 1, 0}] = {0.9, 0.7};
  EXPECT_THAT(CorunSpeeds({{{.profile = 0}, {.profile = 1}}}, profiles), ElementsAre(0.9, 0.7));
  EXPECT_THAT(CorunSpeeds({{{.profile = 1}, {.profile = 0}}}, profiles), ElementsAre(0.7, 0.9));
}

TEST(CorunTest, TooLittleMemorySlowsByTheCurve) {
  Profiles profiles{.of = {{.busy = 0.5, .memory_gib = 8, .memory_speed = {0.4, 0.8, 0.9, 1}}},
                    .gpu_memory_gib = 12};
  // Two want 16 GiB of 12: three quarters each, where the curve says 0.9.
  EXPECT_THAT(CorunSpeeds({{{.profile = 0}, {.profile = 0}}}, profiles),
              ElementsAre(DoubleNear(0.9, 1e-12), DoubleNear(0.9, 1e-12)));
  EXPECT_EQ(SpeedWithMemory(profiles.of[0], 1), 1);
  EXPECT_NEAR(SpeedWithMemory(profiles.of[0], 0.375), 0.6, 1e-12);
  EXPECT_EQ(SpeedWithMemory(profiles.of[0], 0.01), 0.4);
}

}  // namespace
}  // namespace tide::sched

// CPUs and memory of a machine: nobody is slower than with its proportional part.
#include "sched/node_tuning.h"

#include "base/random.h"
#include "gtest/gtest.h"

namespace tide::sched {
namespace {

SpeedCurve Drawn(Random& random) {
  SpeedCurve curve;
  double at = 0, speed = 0;
  for (size_t points = random.Below(4); points > 0; --points) {
    at += 0.5 + 5 * random.Unit();
    speed += 0.05 + random.Unit();
    curve.emplace_back(at, speed);
  }
  return curve;
}

TEST(NodeTuningTest, NobodyIsSlowerThanInProportionAndNoMoreIsGivenThanThereIs) {
  int faster = 0;
  for (uint64_t seed = 1; seed <= 3000; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const NodeSize node{.gpus = 8,
                        .cpus = static_cast<double>(random.Below(64)),
                        .memory_gib = static_cast<double>(random.Below(500))};
    std::vector<JobProfile> profiles(6);
    for (JobProfile& profile : profiles) {
      profile.cpu_speed = Drawn(random);
      profile.host_speed = Drawn(random);
    }
    std::vector<NodeDemand> jobs;
    for (int left = 8; left > 0;) {
      const int gpus = std::min(left, 1 + static_cast<int>(random.Below(4)));
      left -= gpus;
      const size_t which = random.Below(7);
      if (which == 6) continue;  // nobody is on them
      jobs.push_back({.gpus = static_cast<double>(gpus), .profile = &profiles[which]});
    }
    const std::vector<NodePart> tuned = TunedParts(jobs, node);
    const std::vector<NodePart> even = ProportionalParts(jobs, node);
    double cpus = 0, memory_gib = 0;
    for (size_t i = 0; i < jobs.size(); ++i) {
      const double speed = HostSpeed(jobs[i], tuned[i], node);
      const double before = HostSpeed(jobs[i], even[i], node);
      ASSERT_GE(speed, before - 1e-9) << "job " << i;
      ASSERT_LE(speed, 1 + 1e-9);
      faster += speed > before + 1e-6;
      cpus += tuned[i].cpus;
      memory_gib += tuned[i].memory_gib;
    }
    ASSERT_LE(cpus, node.cpus + 1e-9);
    ASSERT_LE(memory_gib, node.memory_gib + 1e-9);
  }
  EXPECT_GT(faster, 1000);
}

TEST(NodeTuningTest, WhatOneJobMakesNothingOfGoesToAnother) {
  JobProfile hungry, modest;
  hungry.cpu_speed = {{3, 0.5}, {6, 1}};
  modest.cpu_speed = {{1, 1}};
  const NodeDemand jobs[] = {{.gpus = 2, .profile = &hungry}, {.gpus = 2, .profile = &modest}};
  const NodeSize node{.gpus = 4, .cpus = 12};
  const std::vector<NodePart> parts = TunedParts(jobs, node);
  EXPECT_EQ(parts[0].cpus, 10);
  EXPECT_EQ(parts[1].cpus, 2);
  // Five CPUs a GPU, two thirds of the way from three to six.
  EXPECT_NEAR(HostSpeed(jobs[0], parts[0], node), 0.5 + 0.5 * 2 / 3, 1e-12);
  EXPECT_EQ(HostSpeed(jobs[1], parts[1], node), 1);
}

TEST(NodeTuningTest, ACurveIsReadInStraightLinesFromNothing) {
  const SpeedCurve curve = {{2, 0.4}, {4, 0.8}, {8, 0.8}};
  EXPECT_EQ(SpeedAt(curve, 0), 0);
  EXPECT_EQ(SpeedAt(curve, 1), 0.2);
  EXPECT_NEAR(SpeedAt(curve, 3), 0.6, 1e-12);
  EXPECT_EQ(SpeedAt(curve, 100), 0.8);
  EXPECT_EQ(EnoughOf(curve), 4);
  EXPECT_EQ(SpeedAt({}, 0), 1);
}

}  // namespace
}  // namespace tide::sched

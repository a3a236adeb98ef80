// Gavel's linear programs: their laws on random problems, and closed forms on one type of GPU.
#include "sched/gavel_shares.h"

#include "base/random.h"
#include "gtest/gtest.h"
#include "sched/linear_program.h"
#include "sched/shares.h"

namespace tide::sched {
namespace {

class GavelSharesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const absl::Status status = CheckLinearSolver(); !status.ok()) GTEST_SKIP() << status;
  }
};

GavelProblem RandomProblem(Random& random, int types) {
  GavelProblem problem;
  for (int type = 0; type < types; ++type) {
    problem.gpus.push_back(static_cast<double>(4 + random.Below(8)));
    problem.cost.push_back(0.5 + random.Unit());
  }
  const int jobs = 2 + static_cast<int>(random.Below(12));
  for (int i = 0; i < jobs; ++i) {
    GavelJob job{.gpus = 1 << random.Below(3),
                 .remaining_s = 10 + 1000 * random.Unit(),
                 .elapsed_s = 100 * random.Unit()};
    for (int type = 0; type < types; ++type) {
      job.speed.push_back(type == 0 ? 1 : 0.1 + 0.9 * random.Unit());
    }
    problem.units.push_back({.jobs = {i}, .speed = {job.speed}});
    problem.jobs.push_back(job);
  }
  return problem;
}

void ExpectFeasible(const GavelProblem& problem, const GavelShares& shares) {
  std::vector<double> time(problem.jobs.size()), used(problem.gpus.size());
  for (size_t unit = 0; unit < shares.size(); ++unit) {
    for (size_t type = 0; type < used.size(); ++type) {
      ASSERT_GE(shares[unit][type], 0);
      for (const int job : problem.units[unit].jobs) time[job] += shares[unit][type];
      used[type] += shares[unit][type] * problem.jobs[problem.units[unit].jobs[0]].gpus;
    }
  }
  for (const double share : time) ASSERT_LE(share, 1 + 1e-6);
  for (size_t type = 0; type < used.size(); ++type) {
    ASSERT_LE(used[type], problem.gpus[type] + 1e-6);
  }
}

double FairLevel(const GavelProblem& problem, const GavelShares& shares) {
  double level = 1e300;
  for (size_t i = 0; i < problem.jobs.size(); ++i) {
    double proportional = 0, gpus = 0;
    for (size_t type = 0; type < problem.gpus.size(); ++type) {
      proportional += problem.jobs[i].speed[type] * problem.gpus[type];
      gpus += problem.gpus[type];
    }
    level = std::min(level, GavelSpeed(problem, shares, static_cast<int>(i)) *
                                problem.jobs[i].gpus / (proportional / gpus));
  }
  return level;
}

TEST_F(GavelSharesTest, EveryProblemHasAFeasibleAnswerAndMaxMinHasTheBestLevel) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const GavelProblem problem = RandomProblem(random, 3);
    const auto best = GavelMaxMin(problem);
    ASSERT_TRUE(best.ok()) << best.status();
    const double level = FairLevel(problem, *best);
    for (const auto solve : {GavelMaxMin, GavelWaterFilling, GavelMakespan, GavelFinishTime,
                             GavelThroughput, GavelCost}) {
      const auto shares = solve(problem);
      ASSERT_TRUE(shares.ok()) << shares.status();
      ExpectFeasible(problem, *shares);
      EXPECT_LE(FairLevel(problem, *shares), level + 1e-6);
    }
    // Water filling keeps the level, and nobody's throughput is below it.
    EXPECT_NEAR(FairLevel(problem, *GavelWaterFilling(problem)), level, 1e-6 * level);
  }
}

TEST_F(GavelSharesTest, OnOneTypeMaxMinIsTheClosedForm) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const GavelProblem problem = RandomProblem(random, 1);
    std::vector<ShareDemand> demands;
    for (const GavelJob& job : problem.jobs) demands.push_back({.gpus = job.gpus});
    const std::vector<double> closed = MaxMinShares(demands, problem.gpus[0]);
    const auto shares = GavelWaterFilling(problem);
    ASSERT_TRUE(shares.ok()) << shares.status();
    for (size_t i = 0; i < closed.size(); ++i) EXPECT_NEAR((*shares)[i][0], closed[i], 1e-6);
  }
}

TEST_F(GavelSharesTest, NoRoundOfJobsEndsEarlierThanMakespanSays) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const GavelProblem problem = RandomProblem(random, 3);
    const auto end_s = [&](const GavelShares& shares) {
      double latest_s = 0;
      for (size_t i = 0; i < problem.jobs.size(); ++i) {
        const double speed = GavelSpeed(problem, shares, static_cast<int>(i));
        latest_s = std::max(latest_s, problem.jobs[i].remaining_s / speed);
      }
      return latest_s;
    };
    EXPECT_LE(end_s(*GavelMakespan(problem)), end_s(*GavelMaxMin(problem)) * (1 + 1e-6));
    EXPECT_LE(end_s(*GavelMakespan(problem)), end_s(*GavelFinishTime(problem)) * (1 + 1e-6));
  }
}

TEST_F(GavelSharesTest, PairsRaiseTheLevelWhenTheyGetMoreDone) {
  GavelProblem problem{.gpus = {1}, .cost = {1}};
  for (int i = 0; i < 2; ++i) {
    problem.jobs.push_back({.speed = {1}, .remaining_s = 100});
    problem.units.push_back({.jobs = {i}, .speed = {{1}}});
  }
  EXPECT_NEAR(GavelSpeed(problem, *GavelMaxMin(problem), 0), 0.5, 1e-6);
  problem.units.push_back({.jobs = {0, 1}, .speed = {{0.8}, {0.8}}});
  EXPECT_NEAR(GavelSpeed(problem, *GavelMaxMin(problem), 0), 0.8, 1e-6);
}

TEST_F(GavelSharesTest, AProgramWithoutAnAnswerSaysSo) {
  LinearProgram program{.objective = {1}, .bounds = {1}};
  program.rows.push_back({.terms = {{0, 1}}, .low = 2, .high = 3});
  EXPECT_EQ(Solve(program).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace tide::sched

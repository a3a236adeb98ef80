// The closed forms against what makes a solution optimal, on random problems.
#include "sched/shares.h"

#include <algorithm>
#include <functional>

#include "base/random.h"
#include "gtest/gtest.h"

namespace tide::sched {
namespace {

std::vector<ShareDemand> RandomDemands(Random& random) {
  std::vector<ShareDemand> jobs(1 + random.Below(20));
  for (ShareDemand& job : jobs) {
    job.gpus = 1 << random.Below(5);
    job.elapsed_s = static_cast<double>(random.Below(1000));
    job.remaining_s = 1 + static_cast<double>(random.Below(1000));
    job.alone_s = job.remaining_s + static_cast<double>(random.Below(2000));
  }
  return jobs;
}

double Used(const std::vector<ShareDemand>& jobs, const std::vector<double>& shares) {
  double used = 0;
  for (size_t i = 0; i < jobs.size(); ++i) {
    EXPECT_GE(shares[i], 0);
    EXPECT_LE(shares[i], 1);
    used += jobs[i].gpus * shares[i];
  }
  return used;
}

void ForRandomProblems(
    const std::function<void(const std::vector<ShareDemand>& jobs, double gpus)>& check) {
  for (uint64_t seed = 1; seed <= 1000; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const std::vector<ShareDemand> jobs = RandomDemands(random);
    check(jobs, static_cast<double>(1 + random.Below(64)));
  }
}

TEST(SharesTest, MaxMinFillsTheClusterAndNobodyBelowTheLevelWantsMore) {
  ForRandomProblems([](const auto& jobs, double gpus) {
    const std::vector<double> shares = MaxMinShares(jobs, gpus);
    double wanted = 0, level = 0;
    for (size_t i = 0; i < jobs.size(); ++i) {
      wanted += jobs[i].gpus;
      level = std::max(level, shares[i] * jobs[i].gpus);
    }
    ASSERT_NEAR(Used(jobs, shares), std::min(wanted, gpus), 1e-9 * gpus);
    for (size_t i = 0; i < jobs.size(); ++i) {
      // Either it has all it can use or as much as anybody.
      const double gap = shares[i] < 1 ? level - shares[i] * jobs[i].gpus : 0;
      ASSERT_NEAR(gap, 0, 1e-9 * level);
    }
  });
}

TEST(SharesTest, MakespanSharesEndTogetherAtTheLowerBound) {
  ForRandomProblems([](const auto& jobs, double gpus) {
    const std::vector<double> shares = MakespanShares(jobs, gpus);
    double bound_s = 0, gpu_seconds = 0;
    for (const ShareDemand& job : jobs) {
      bound_s = std::max(bound_s, job.remaining_s);
      gpu_seconds += job.gpus * job.remaining_s;
    }
    bound_s = std::max(bound_s, gpu_seconds / gpus);
    ASSERT_LE(Used(jobs, shares), gpus * (1 + 1e-9));
    for (size_t i = 0; i < jobs.size(); ++i) {
      ASSERT_NEAR(jobs[i].remaining_s / shares[i], bound_s, 1e-9 * bound_s);
    }
  });
}

TEST(SharesTest, FinishTimeSharesFitAndALowerWorstRatioWouldNot) {
  ForRandomProblems([](const auto& jobs, double gpus) {
    const std::vector<double> shares = FinishTimeShares(jobs, gpus);
    ASSERT_LE(Used(jobs, shares), gpus * (1 + 1e-9));
    double worst = 0, least = 0;
    for (size_t i = 0; i < jobs.size(); ++i) {
      const ShareDemand& job = jobs[i];
      worst = std::max(worst, (job.elapsed_s + job.remaining_s / shares[i]) / job.alone_s);
      least = std::max(least, (job.elapsed_s + job.remaining_s) / job.alone_s);
    }
    if (worst <= least * (1 + 1e-9)) return;  // nobody could have it better
    const double lower = worst * (1 - 1e-6);
    double needed = 0;
    for (const ShareDemand& job : jobs) {
      needed += job.gpus * job.remaining_s / (lower * job.alone_s - job.elapsed_s);
    }
    ASSERT_GT(needed, gpus);
  });
}

}  // namespace
}  // namespace tide::sched

// The best batch against a fine grid, with and without overlap.
#include <cmath>

#include "base/random.h"
#include "gtest/gtest.h"
#include "sched/job_profile.h"

namespace tide::sched {
namespace {

BatchModel Drawn(Random& random) {
  const auto log_between = [&](double low, double high) {
    return low * std::pow(high / low, random.Unit());
  };
  BatchModel batch{.own = log_between(1, 512)};
  batch.most = batch.own * log_between(1, 64);
  batch.noise = random.Below(10) == 0 ? 0 : log_between(1, 1e5);
  batch.step_s = random.Below(5) == 0 ? 0 : log_between(1e-4, 1);
  batch.example_s = log_between(1e-5, 0.1);
  batch.sync_s = log_between(1e-4, 1);
  batch.sync_gpu_s = log_between(1e-5, 0.1);
  batch.overlap = random.Below(2) == 0 ? 1 : 1 + 9 * random.Unit();
  return batch;
}

TEST(BatchModelTest, NoBatchOfAGridDoesMoreThanTheBest) {
  for (uint64_t seed = 1; seed <= 2000; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const BatchModel batch = Drawn(random);
    const int gpus = 1 + static_cast<int>(random.Below(32));
    const double best = batch.BestBatch(gpus);
    ASSERT_GE(best, batch.own);
    ASSERT_LE(best, batch.most);
    for (int i = 0; i <= 300; ++i) {
      const double other = batch.own * std::pow(batch.most / batch.own, i / 300.0);
      ASSERT_GE(batch.Goodput(gpus, best) * (1 + 1e-6), batch.Goodput(gpus, other)) << other;
    }
  }
}

TEST(BatchModelTest, OverlapHidesTheShorterPartOfAStep) {
  BatchModel batch{.own = 100, .example_s = 0.01, .sync_s = 0.3};
  // On two GPUs half a second of computing and 0.3 s of exchange.
  EXPECT_NEAR(batch.Throughput(2, 100), 100 / 0.8, 1e-9);
  batch.overlap = 100;
  EXPECT_NEAR(batch.Throughput(2, 100), 100 / 0.5, 1e-6);
  EXPECT_NEAR(batch.Throughput(1, 100), 100, 1e-9);
}

TEST(BatchModelTest, ALargerBatchIsWorthLessByTheNoiseScale) {
  const BatchModel batch{.own = 100, .noise = 300, .example_s = 0.01};
  EXPECT_EQ(batch.Efficiency(100), 1);
  EXPECT_EQ(batch.Efficiency(500), 0.5);
}

}  // namespace
}  // namespace tide::sched

// The Gittins index against its definition, and its two well-known shapes.
#include "sched/size_distribution.h"

#include <algorithm>
#include <vector>

#include "base/random.h"
#include "gtest/gtest.h"

namespace tide::sched {
namespace {

TEST(SizeDistributionTest, TheIndexIsChanceOverExpectedService) {
  for (uint64_t seed = 1; seed <= 500; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    SizeDistribution distribution;
    std::vector<double> sizes;
    for (int step = 0; step < 30; ++step) {
      sizes.push_back(static_cast<double>(1 + random.Below(100)));
      distribution.Add(sizes.back());
      const auto attained = static_cast<double>(random.Below(110));
      const auto quantum = static_cast<double>(1 + random.Below(50));
      double larger = 0, ending = 0, spent = 0;
      for (const double size : sizes) {
        if (size <= attained) continue;
        ++larger;
        ending += size <= attained + quantum ? 1 : 0;
        spent += std::min(size - attained, quantum);
      }
      const double index = larger > 0 ? ending / spent : 1 / quantum;
      ASSERT_DOUBLE_EQ(distribution.GittinsIndex(attained, quantum), index);
    }
  }
}

TEST(SizeDistributionTest, AmongJobsOfOneSizeTheOneNearestItsEndGoesFirst) {
  SizeDistribution distribution;
  for (int i = 0; i < 10; ++i) distribution.Add(100);
  EXPECT_GT(distribution.GittinsIndex(80, 50), distribution.GittinsIndex(60, 50));
  EXPECT_GT(distribution.GittinsIndex(60, 50), distribution.GittinsIndex(0, 50));
}

TEST(SizeDistributionTest, AmongHeavyTailedJobsTheOneThatHasHadLeastGoesFirst) {
  SizeDistribution distribution;
  for (int i = 0; i < 90; ++i) distribution.Add(10);
  for (int i = 0; i < 10; ++i) distribution.Add(10000);
  EXPECT_GT(distribution.GittinsIndex(0, 50), distribution.GittinsIndex(20, 50));
}

}  // namespace
}  // namespace tide::sched

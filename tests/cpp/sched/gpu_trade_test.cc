// Trades of types of GPU: nobody loses, nobody who could gain is left, the price is the second's.
#include "sched/gpu_trade.h"

#include <numeric>

#include "base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tide::sched {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;

double Worth(const TradeUser& user, const std::vector<double>& share) {
  return std::inner_product(share.begin(), share.end(), user.speed.begin(), 0.0);
}

double Sum(const std::vector<double>& share) {
  return std::accumulate(share.begin(), share.end(), 0.0);
}

// What a user makes of an equal part of each type when it leaves the slowest that it cannot use.
double WorthOfEqualPart(const TradeUser& user, const std::vector<int>& gpus, size_t users) {
  std::vector<std::pair<double, double>> parts;  // (speed, GPUs)
  for (size_t type = 0; type < gpus.size(); ++type) {
    parts.emplace_back(user.speed[type], gpus[type] / static_cast<double>(users));
  }
  std::sort(parts.rbegin(), parts.rend());
  double left = user.demand, worth = 0;
  for (const auto& [speed, part] : parts) {
    worth += speed * std::min(left, part);
    left -= std::min(left, part);
  }
  return worth;
}

TEST(GpuTradeTest, NobodyIsWorseOffThanWithItsOwnPartOfEachTypeAndAllGpusStay) {
  int traded = 0;
  for (uint64_t seed = 1; seed <= 3000; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const size_t types = 2 + random.Below(3);
    std::vector<int> gpus;
    for (size_t type = 0; type < types; ++type) gpus.push_back(static_cast<int>(random.Below(20)));
    std::vector<TradeUser> users(1 + random.Below(6));
    for (TradeUser& user : users) {
      user.demand = static_cast<double>(1 + random.Below(30));
      for (size_t type = 0; type < types; ++type) {
        user.speed.push_back(random.Below(10) == 0 ? 0 : 0.1 + random.Unit());
      }
    }
    const TradeShares fair = FairShares(users, gpus);
    TradeShares shares = fair;
    Trade(users, shares);
    for (size_t type = 0; type < types; ++type) {
      double before = 0, after = 0;
      for (size_t user = 0; user < users.size(); ++user) {
        ASSERT_GE(shares[user][type], -1e-12);
        before += fair[user][type];
        after += shares[user][type];
      }
      ASSERT_NEAR(before, after, 1e-9);
      ASSERT_LE(after, gpus[type] + 1e-9);
    }
    for (size_t user = 0; user < users.size(); ++user) {
      const double worth = Worth(users[user], shares[user]);
      ASSERT_GE(Worth(users[user], fair[user]) + 1e-9,
                WorthOfEqualPart(users[user], gpus, users.size()));
      ASSERT_GE(worth + 1e-6, Worth(users[user], fair[user])) << "user " << user;
      ASSERT_LE(Sum(shares[user]), users[user].demand + 1e-9) << "user " << user;
      traded += worth > Worth(users[user], fair[user]) + 1e-3;
    }
  }
  EXPECT_GT(traded, 1000);
}

TEST(GpuTradeTest, TheSecondBuyersGainIsThePrice) {
  // 6 fast and 30 slow GPUs; gains of 1.2, 3 and 5: the third buys at 3.
  const std::vector<TradeUser> users = {{.demand = 99, .speed = {1.2, 1}},
                                        {.demand = 99, .speed = {3, 1}},
                                        {.demand = 99, .speed = {5, 1}}};
  TradeShares shares = FairShares(users, {6, 30});
  Trade(users, shares);
  // It has 10 slow ones: two fast for six of them from the first, one and a third from the second.
  EXPECT_THAT(shares[2], ElementsAre(DoubleNear(2 + 10 / 3.0, 1e-9), DoubleNear(0, 1e-9)));
  EXPECT_THAT(shares[0], ElementsAre(DoubleNear(0, 1e-9), DoubleNear(16, 1e-9)));
  EXPECT_THAT(shares[1], ElementsAre(DoubleNear(2 - 4 / 3.0, 1e-9), DoubleNear(14, 1e-9)));
}

TEST(GpuTradeTest, OnlyWhoCanUseMoreGpusSells) {
  const std::vector<TradeUser> users = {{.demand = 4, .speed = {1, 1}},
                                        {.demand = 99, .speed = {4, 1}}};
  TradeShares shares = FairShares(users, {4, 4});
  const TradeShares fair = shares;
  Trade(users, shares);
  // At a price of 1 the number of GPUs stays: the first does not mind, the second gains.
  EXPECT_THAT(shares[0], ElementsAre(0, 4));
  EXPECT_THAT(shares[1], ElementsAre(4, 0));
  const std::vector<TradeUser> three = {{.demand = 2, .speed = {1, 1}},
                                        {.demand = 99, .speed = {3, 1}},
                                        {.demand = 99, .speed = {4, 1}}};
  shares = FairShares(three, {3, 3});
  Trade(three, shares);
  // At 3 slow ones for a fast one the first would have more than it can use.
  EXPECT_NEAR(Sum(shares[0]), 2, 1e-9);
  EXPECT_THAT(shares[0], ElementsAre(DoubleNear(1, 1e-9), DoubleNear(1, 1e-9)));
}

TEST(GpuTradeTest, EqualPartsStopAtTheNeed) {
  EXPECT_THAT(EqualParts({1, 10, 10}, 9), ElementsAre(1, 4, 4));
  EXPECT_THAT(EqualParts({1, 2}, 9), ElementsAre(1, 2));
  EXPECT_THAT(EqualParts({}, 9), ElementsAre());
}

}  // namespace
}  // namespace tide::sched

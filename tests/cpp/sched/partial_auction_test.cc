// The partial auction against its definition, all allocations tried.
#include "sched/partial_auction.h"

#include <cmath>

#include "gtest/gtest.h"

namespace tide::sched {
namespace {

double Best(const std::vector<KnapsackItem>& bids, size_t from, int left, size_t absent) {
  if (from == bids.size()) return 0;
  double best = Best(bids, from + 1, left, absent);
  if (from == absent) return best;
  for (const KnapsackChoice& row : bids[from]) {
    if (row.weight > left) continue;
    best = std::max(best, row.value + Best(bids, from + 1, left - row.weight, absent));
  }
  return best;
}

std::vector<KnapsackItem> RandomBids(Random& random) {
  std::vector<KnapsackItem> bids(random.Below(6));
  for (KnapsackItem& bid : bids) {
    int weight = 0;
    double value = random.Unit() - 0.2;
    const size_t rows = 1 + random.Below(4);
    for (size_t row = 0; row < rows; ++row) {
      bid.push_back({.weight = weight += 1 + static_cast<int>(random.Below(4)), .value = value});
      value += random.Unit();
    }
  }
  return bids;
}

TEST(PartialAuctionTest, WinnersMaximiseTheProductAndKeepWhatTheOthersLoseByThem) {
  int paid = 0;
  for (uint64_t seed = 1; seed <= 2000; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const std::vector<KnapsackItem> bids = RandomBids(random);
    const int gpus = static_cast<int>(random.Below(16));
    const std::vector<AuctionWin> wins = HoldAuction(bids, gpus);
    ASSERT_EQ(wins.size(), bids.size());
    double product = 0;
    int used = 0;
    for (size_t i = 0; i < bids.size(); ++i) {
      if (wins[i].choice < 0) continue;
      product += bids[i][wins[i].choice].value;
      used += bids[i][wins[i].choice].weight;
    }
    ASSERT_LE(used, gpus);
    ASSERT_NEAR(product, Best(bids, 0, gpus, bids.size()), 1e-9);
    for (size_t i = 0; i < bids.size(); ++i) {
      if (wins[i].choice < 0) continue;
      const double others = product - bids[i][wins[i].choice].value;
      ASSERT_NEAR(wins[i].kept, std::exp(others - Best(bids, 0, gpus, i)), 1e-9);
      ASSERT_GT(wins[i].kept, 0);
      ASSERT_LE(wins[i].kept, 1);
      paid += wins[i].kept < 1;
    }
  }
  EXPECT_GT(paid, 1000);
}

TEST(PartialAuctionTest, WithoutContentionNobodyPays) {
  const std::vector<KnapsackItem> bids = {{{.weight = 2, .value = 1}, {.weight = 4, .value = 1.5}},
                                          {{.weight = 3, .value = 0.1}}};
  const std::vector<AuctionWin> wins = HoldAuction(bids, 7);
  EXPECT_EQ(wins[0].choice, 1);
  EXPECT_EQ(wins[1].choice, 0);
  EXPECT_EQ(wins[0].kept, 1);
  EXPECT_EQ(wins[1].kept, 1);
}

TEST(PartialAuctionTest, TheGpusThatAreDrawnAreOnAverageThePartThatIsKept) {
  Random random(7);
  const KnapsackItem bid = {{.weight = 2, .value = 1}, {.weight = 8, .value = 2}};
  for (const double kept : {0.1, 0.25, 0.6, 0.9, 1.0}) {
    SCOPED_TRACE(kept);
    double sum = 0;
    for (int i = 0; i < 20'000; ++i) {
      const int gpus = DrawKept(bid, {.choice = 1, .kept = kept}, random);
      ASSERT_TRUE(gpus == 0 || gpus == 2 || gpus == 8) << gpus;
      sum += gpus;
    }
    EXPECT_NEAR(sum / 20'000, 8 * kept, 0.1);
  }
  EXPECT_EQ(DrawKept(bid, {}, random), 0);
}

}  // namespace
}  // namespace tide::sched

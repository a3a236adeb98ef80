// Matchings against all matchings tried.
#include "sched/matching.h"

#include "base/random.h"
#include "gtest/gtest.h"

namespace tide::sched {
namespace {

double Best(const std::vector<std::vector<double>>& weight, std::vector<bool>& taken, size_t from) {
  while (from < taken.size() && taken[from]) ++from;
  if (from == taken.size()) return 0;
  taken[from] = true;
  double best = Best(weight, taken, from + 1);  // it stays alone
  for (size_t other = from + 1; other < taken.size(); ++other) {
    if (taken[other] || weight[from][other] <= 0) continue;
    taken[other] = true;
    best = std::max(best, weight[from][other] + Best(weight, taken, from + 1));
    taken[other] = false;
  }
  taken[from] = false;
  return best;
}

TEST(MatchingTest, WeighsAsMuchAsTheBestOfAllMatchings) {
  for (uint64_t seed = 1; seed <= 1000; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const size_t nodes = 1 + random.Below(10);
    std::vector<std::vector<double>> weight(nodes, std::vector<double>(nodes, 0));
    std::vector<WeightedEdge> edges;
    for (size_t a = 0; a < nodes; ++a) {
      for (size_t b = a + 1; b < nodes; ++b) {
        if (random.Below(3) == 0) continue;
        weight[a][b] = random.Unit();
        edges.push_back(
            {.a = static_cast<int>(a), .b = static_cast<int>(b), .weight = weight[a][b]});
      }
    }
    double got = 0;
    std::vector<bool> matched(nodes);
    for (const auto& [a, b] : MaximumMatching(static_cast<int>(nodes), edges)) {
      ASSERT_FALSE(matched[a] || matched[b]);
      matched[a] = matched[b] = true;
      ASSERT_GT(weight[a][b], 0);
      got += weight[a][b];
    }
    std::vector<bool> taken(nodes);
    ASSERT_NEAR(got, Best(weight, taken, 0), 1e-7);
  }
}

TEST(MatchingTest, EdgesOfNoWorthAreLeftOut) {
  EXPECT_TRUE(MaximumMatching(2, {{.a = 0, .b = 1, .weight = 0}}).empty());
  EXPECT_TRUE(MaximumMatching(0, {}).empty());
}

}  // namespace
}  // namespace tide::sched

// One table of what the bidders from each on can make of so many GPUs; with a row of those before,
// it gives the best of all without one.
#include "sched/partial_auction.h"

#include <algorithm>
#include <cmath>

namespace tide::sched {
namespace {

// `row` is what others make of 0, 1.. GPUs; the result is that with one more bidder.
std::vector<double> With(const KnapsackItem& bid, const std::vector<double>& row) {
  std::vector<double> with = row;
  for (const auto& [weight, value] : bid) {
    for (size_t total = static_cast<size_t>(weight); total < row.size(); ++total) {
      with[total] = std::max(with[total], row[total - static_cast<size_t>(weight)] + value);
    }
  }
  return with;
}

}  // namespace

std::vector<AuctionWin> HoldAuction(const std::vector<KnapsackItem>& bids, int gpus) {
  const size_t count = bids.size();
  const auto width = static_cast<size_t>(std::max(0, gpus)) + 1;
  std::vector<std::vector<double>> from(count + 1);  // [i]: of the bidders i, i + 1..
  from[count].assign(width, 0);
  for (size_t i = count; i-- > 0;) from[i] = With(bids[i], from[i + 1]);
  std::vector<AuctionWin> wins(count);
  std::vector<double> before(width, 0);
  size_t left = width - 1;
  const double best = from[0][left];
  for (size_t i = 0; i < count; ++i) {
    double most = from[i + 1][left], value = 0;
    size_t taken = 0;
    for (size_t choice = 0; choice < bids[i].size(); ++choice) {
      const auto weight = static_cast<size_t>(bids[i][choice].weight);
      if (weight > left || from[i + 1][left - weight] + bids[i][choice].value <= most) continue;
      value = bids[i][choice].value;
      most = from[i + 1][left - weight] + value;
      wins[i].choice = static_cast<int>(choice);
      taken = weight;
    }
    left -= taken;
    double without = 0;
    for (size_t part = 0; part < width; ++part) {
      without = std::max(without, before[part] + from[i + 1][width - 1 - part]);
    }
    wins[i].kept = std::exp(std::min(0.0, best - value - without));
    before = With(bids[i], before);
  }
  return wins;
}

int DrawKept(const KnapsackItem& bid, const AuctionWin& win, Random& random) {
  if (win.choice < 0) return 0;
  const double part = win.kept * bid[win.choice].weight;
  int below = 0, above = bid[win.choice].weight;
  for (int choice = 0; choice <= win.choice; ++choice) {
    const int gpus = bid[choice].weight;
    if (gpus <= part) {
      below = std::max(below, gpus);
    } else {
      above = std::min(above, gpus);
    }
  }
  if (above <= below) return below;
  return random.Unit() * (above - below) < part - below ? above : below;
}

}  // namespace tide::sched

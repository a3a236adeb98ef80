// Sellers by ascending gain, buyers by descending gain: two hands that meet.
#include "sched/gpu_trade.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace tide::sched {
namespace {

constexpr double kLeast = 1e-9;  // GPUs; less is not traded

double Sum(const std::vector<double>& parts) {
  return std::accumulate(parts.begin(), parts.end(), 0.0);
}

// How many times as fast its jobs are on the fast type.
double GainOf(const TradeUser& user, size_t fast, size_t slow) {
  if (user.speed[slow] <= 0) return user.speed[fast] > 0 ? std::numeric_limits<double>::max() : 1;
  return user.speed[fast] / user.speed[slow];
}

// What does not fit into the demand goes, the slowest first.
void LeaveSlowest(const TradeUser& user, std::vector<double>& share, std::vector<double>& pool) {
  std::vector<size_t> types(share.size());
  std::iota(types.begin(), types.end(), size_t{0});
  std::stable_sort(types.begin(), types.end(),
                   [&](size_t a, size_t b) { return user.speed[a] < user.speed[b]; });
  double over = Sum(share) - user.demand;
  for (const size_t type : types) {
    const double left = std::clamp(over, 0.0, share[type]);
    share[type] -= left;
    pool[type] += left;
    over -= left;
  }
}

void TradePair(absl::Span<const TradeUser> users, size_t fast, size_t slow, TradeShares& shares) {
  std::vector<std::pair<double, size_t>> order;  // by gain
  for (size_t user = 0; user < users.size(); ++user) {
    order.emplace_back(GainOf(users[user], fast, slow), user);
  }
  std::sort(order.begin(), order.end());
  size_t low = 0, high = order.size();
  while (low + 1 < high) {
    const auto& [least, seller] = order[low];
    const auto& [most, buyer] = order[high - 1];
    const double price = order[high - 2].first;
    if (most <= least * (1 + kLeast)) return;
    const double room = users[seller].demand - Sum(shares[seller]);
    const double buyer_room = users[buyer].demand - Sum(shares[buyer]);
    double sold = shares[seller][fast];
    if (price > 1) sold = std::min(sold, room / (price - 1));
    if (price < 1) sold = std::min(sold, buyer_room / (1 - price));
    const bool seller_done = sold * price <= shares[buyer][slow];
    sold = std::min(sold, shares[buyer][slow] / price);
    if (sold > kLeast) {
      shares[seller][fast] -= sold;
      shares[buyer][fast] += sold;
      shares[seller][slow] += sold * price;
      shares[buyer][slow] = std::max(0.0, shares[buyer][slow] - sold * price);
    }
    const bool buyer_full = price < 1 && buyer_room <= kLeast;
    if (seller_done && !buyer_full) {
      ++low;
    } else {
      --high;
    }
  }
}

}  // namespace

std::vector<double> EqualParts(absl::Span<const double> needs, double total) {
  std::vector<size_t> order(needs.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return needs[a] < needs[b]; });
  std::vector<double> parts(needs.size(), 0);
  for (size_t i = 0; i < order.size(); ++i) {
    const double part = total / static_cast<double>(order.size() - i);
    parts[order[i]] = std::min(part, needs[order[i]]);
    total -= parts[order[i]];
  }
  return parts;
}

TradeShares FairShares(absl::Span<const TradeUser> users, absl::Span<const int> gpus) {
  TradeShares shares(users.size());
  std::vector<double> pool(gpus.size(), 0);
  for (size_t user = 0; user < users.size(); ++user) {
    for (const int count : gpus) {
      shares[user].push_back(count / static_cast<double>(users.size()));
    }
    LeaveSlowest(users[user], shares[user], pool);
  }
  for (size_t type = 0; type < gpus.size(); ++type) {
    std::vector<double> needs;
    for (size_t user = 0; user < users.size(); ++user) {
      const bool runs = users[user].speed[type] > 0;
      needs.push_back(runs ? std::max(0.0, users[user].demand - Sum(shares[user])) : 0);
    }
    const std::vector<double> parts = EqualParts(needs, pool[type]);
    for (size_t user = 0; user < users.size(); ++user) shares[user][type] += parts[user];
  }
  return shares;
}

void Trade(absl::Span<const TradeUser> users, TradeShares& shares) {
  if (users.size() < 2) return;
  std::vector<double> speeds(users[0].speed.size(), 0);
  for (const TradeUser& user : users) {
    for (size_t type = 0; type < speeds.size(); ++type) speeds[type] += user.speed[type];
  }
  std::vector<size_t> order(speeds.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return speeds[a] > speeds[b]; });
  for (size_t fast = 0; fast < order.size(); ++fast) {
    for (size_t slow = fast + 1; slow < order.size(); ++slow) {
      TradePair(users, order[fast], order[slow], shares);
    }
  }
}

}  // namespace tide::sched

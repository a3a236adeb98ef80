// Users who trade types of GPU: everybody's fair share of each type, and what trades make of it.
#pragma once

#include <vector>

#include "absl/types/span.h"

namespace tide::sched {

struct TradeUser {
  double demand = 0;          // GPUs that its jobs can use at one time
  std::vector<double> speed;  // of its jobs on each type, any unit
};

/// GPUs of each user, [user][type], on average over time.
using TradeShares = std::vector<std::vector<double>>;

/// An equal part of each type, as far as the user's demand goes: it leaves what is slowest for it,
/// and others who can use that share it equally.
TradeShares FairShares(absl::Span<const TradeUser> users, absl::Span<const int> gpus);

/// Fast GPUs go from who gains least by them to who gains most, for slow ones, until no pair gains.
/// The price of a fast one, in slow ones, is the gain of the second of those who would buy
/// (Gandiva-fair, EuroSys 2020). Nobody's sum of shares times speeds falls, nor does anybody get
/// more GPUs than it can use. Pairs of types are gone through from the fastest down.
void Trade(absl::Span<const TradeUser> users, TradeShares& shares);

/// `total` in equal parts, none above the need of its place; the sum is the least of both.
std::vector<double> EqualParts(absl::Span<const double> needs, double total);

}  // namespace tide::sched

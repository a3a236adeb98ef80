// The partial allocation auction: proportional fairness in which each winner leaves behind what its
// being there costs the others.
#pragma once

#include <vector>

#include "base/random.h"
#include "sched/knapsack.h"

namespace tide::sched {

/// What one bidder wins.
struct AuctionWin {
  int choice = -1;  // of its bid; -1: nothing
  double kept = 1;  // the part of it that the hidden payment leaves, in (0, 1]
};

/// A bid is a table: numbers of GPUs, ascending, each with the logarithm of how many times better
/// than with none the bidder is off. Winners maximise the product of these ratios (proportional
/// fairness), exactly; a winner keeps the product over the others with it there, divided by the
/// product had it not come (Cole, Gkatzelis, Goel, EC 2013; Themis, NSDI 2020). O(gpus * choices).
std::vector<AuctionWin> HoldAuction(const std::vector<KnapsackItem>& bids, int gpus);

/// The GPUs of a win: a gang cannot take a part of a GPU, nor of itself, so one of the two sizes of
/// the bid around the part that is kept is drawn; on average it is that part.
int DrawKept(const KnapsackItem& bid, const AuctionWin& win, Random& random);

}  // namespace tide::sched

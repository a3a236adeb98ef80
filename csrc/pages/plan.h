// Which pages leave when memory is short: a pure function of what was learnt about their use.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/ids.h"

namespace tide::pages {

/// What is known of one page with live blocks in private memory. Ticks count operators within an
/// iteration.
struct PageUse {
  PageIndex page;
  int32_t first_tick = -1;  // first operator of the learnt iteration that touched it; -1: none did
  int32_t last_tick = -1;   // last operator that touched it
  int32_t bursts = 0;       // separate visits per iteration: each costs a transfer in and out
};

struct DemotionOptions {
  int32_t visits_max = 1 << 20;  // pages visited more often per iteration stay
};

struct DemotionPlan {
  std::vector<PageIndex> pages;  // in the order in which they should leave
  PageCount short_by;            // what could not be found
  std::string reason;
};

/// Chooses `need` pages: those that no operator touches first, then those with the fewest visits
/// per iteration, and among equals the ones touched last, so that a sweep over optimizer state
/// finds its beginning resident while its end is read ahead. Deterministic.
DemotionPlan PlanDemotion(std::vector<PageUse> candidates, PageCount need,
                          const DemotionOptions& options = {});

/// Belady's choice on a recorded cyclic trace, for comparison: transfers in per iteration when
/// `capacity` pages may be resident and `trace` repeats. Reference: L. A. Belady, IBM Systems
/// Journal 5(2), 1966.
int64_t BeladyTransfers(const std::vector<PageIndex>& trace, int64_t capacity, int iterations);

/// Transfers in per iteration of the same trace when the pages of `plan` stream and the rest stay.
int64_t PlannedTransfers(const std::vector<PageIndex>& trace, const DemotionPlan& plan);

}  // namespace tide::pages

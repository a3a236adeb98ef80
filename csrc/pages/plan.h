// Which pages leave when memory is short: a pure function of what was learnt about their use.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/ids.h"

namespace tide::pages {

/// Operators of an iteration that use a page in one go, both ends included.
struct Visit {
  int32_t first = -1;
  int32_t last = -1;
  friend bool operator==(const Visit&, const Visit&) = default;
};

/// What is known of one page with live blocks. Ticks count operators within an iteration.
struct PageUse {
  static constexpr int kVisitsKept = 4;  // later ones lengthen the last

  PageIndex page;
  int32_t first_tick = -1;  // first operator of the learnt iteration that touched it; -1: none did
  int32_t last_tick = -1;   // last operator that touched it
  int32_t bursts = 0;       // separate visits per iteration: each costs a transfer in and out
  std::array<Visit, kVisitsKept> visits;

  int visits_known() const { return bursts < kVisitsKept ? bursts : kVisitsKept; }
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
/// per iteration. Among equals always one whose time of use has the fewest streaming pages, those
/// of `streaming` included: so as few as possible are needed at once, and the next are read while
/// the last are written. A larger need only adds pages. Deterministic.
DemotionPlan PlanDemotion(std::vector<PageUse> candidates, PageCount need,
                          const std::vector<PageUse>& streaming = {},
                          const DemotionOptions& options = {});

/// Most pages of `pages` that operators use at one time: the window they need when they stream.
PageCount StreamingDepth(const std::vector<PageUse>& pages);

/// Operators from `tick` to the next visit of a page in a cycle of `length` ticks: 0 within a
/// visit, INT32_MAX for a page that none visits.
int32_t TicksToNextUse(const PageUse& use, int32_t tick, int32_t length);

/// Belady's choice on a recorded cyclic trace, for comparison: transfers in per iteration when
/// `capacity` pages may be resident and `trace` repeats. Reference: L. A. Belady, IBM Systems
/// Journal 5(2), 1966.
int64_t BeladyTransfers(const std::vector<PageIndex>& trace, int64_t capacity, int iterations);

/// Transfers in per iteration of the same trace when the pages of `plan` stream and the rest stay.
int64_t PlannedTransfers(const std::vector<PageIndex>& trace, const DemotionPlan& plan);

}  // namespace tide::pages

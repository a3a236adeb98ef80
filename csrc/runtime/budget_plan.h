// What to move at a boundary so that the next iteration fits: a pure function of sizes.
#pragma once

#include <string>

#include "base/bytes.h"

namespace tide::runtime {

/// All sizes of one job at a boundary, in bytes unless a name says otherwise.
struct BudgetState {
  Bytes limit;             // 0: none
  Bytes outside;           // interpreter, libraries, small blocks, children
  Bytes lane_peak;         // this job's use of the lane's scratch
  Bytes alive;             // private pages with live blocks
  Bytes cached;            // private pages without
  Bytes demoted;           // pages in the file tier
  Bytes pinned;            // blocks that never move
  Bytes private_scratch;   // private pages an iteration needs beyond `alive`
  Bytes largest_operator;  // blocks that one operator uses at most; 0: not recorded yet
  Bytes window;            // memory that streaming demoted pages through an iteration takes
  Bytes device_free;  // capacity minus used; negative when over; a very large number when unlimited
  Bytes asked;        // bytes that others asked for
  Bytes guaranteed;   // share that others cannot ask for
  bool recently_asked =
      false;              // others needed memory moments ago: taking it back now would be ping-pong
  bool measured = false;  // lifetimes are learnt: the sizes above are those of a usual iteration
  bool trim_scratch = false;  // the lane has just taken over the iteration's scratch
};

struct BudgetPlan {
  PageCount trim_keep;  // cached pages to keep
  bool trim = false;
  PageCount demote;
  PageCount promote;
  Bytes given_to_others;  // part of the request that this plan meets
  std::string reason;
};

/// The window for pages that stream: what operators use of them at one time (`depth`) and room to
/// read ahead. Where not even the iteration's scratch fits, scratch streams too and the window has
/// to hold the largest operator.
Bytes PlanWindow(const BudgetState& state, Bytes depth);

BudgetPlan PlanBudget(const BudgetState& state);

/// The smallest limit that this job can run under, and its parts.
struct SmallestLimit {
  Bytes total;
  Bytes outside;
  Bytes pinned;
  Bytes scratch;  // of the lane, and the blocks of the largest operator: all else can stream
  Bytes window;   // for reading ahead and writing behind
};
SmallestLimit SmallestPossibleLimit(const BudgetState& state);

}  // namespace tide::runtime

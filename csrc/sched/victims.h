// Who gives memory back when a job needs some: a pure choice of victims with its reason.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/bytes.h"
#include "base/ids.h"
#include "sched/turn_policy.h"

namespace tide::sched {

/// What the choice knows of one job.
struct VictimMember {
  SlotId id;
  Bytes resident;     // in memory now
  Bytes guaranteed;   // its share that nobody may take
  Bytes reclaimable;  // what it can give (not pinned, not asked for already)
  Priority priority = Priority::kNormal;
  absl::Duration last_run;  // monotonic time at which it ran last
  std::optional<int>
      turns_until_next;  // predicted turns of others before it runs again; empty: not soon
};

struct Victim {
  SlotId id;
  Bytes bytes;  // whole pages
};

/// `shortfall` is what nobody can give; zero when the need is met. `reason` is a sentence with
/// numbers.
struct VictimChoice {
  std::vector<Victim> victims;
  Bytes shortfall;
  std::string reason;
};

/// Finds `need` bytes (rounded up to pages) for `requester`: from opportunistic jobs first, then
/// normal ones, above their guaranteed share, first from those that run again latest, then from
/// those that ran least recently. Never from the requester, from guaranteed jobs, or from a job of
/// higher priority than the requester (normal when it is not in `members`).
VictimChoice ChooseVictims(absl::Span<const VictimMember> members, Bytes need, SlotId requester);

}  // namespace tide::sched

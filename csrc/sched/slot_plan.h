// Which GPUs of which time slots are promised so that every deadline holds (ElasticFlow, ASPLOS
// 2023).
#pragma once

#include <optional>
#include <vector>

#include "absl/types/span.h"

namespace tide::sched {

/// A job as the plan sees it. Speeds are work a second.
struct SlotDemand {
  std::vector<int> sizes;      // ascending
  std::vector<double> speeds;  // of each size
  double work = 0;             // left
  int slots = 0;               // whole slots until its deadline
};

/// GPUs of a job in each slot from now on; nothing after the last.
using SlotPlan = std::vector<int>;

/// The minimum satisfactory share: the smallest quota of GPUs with which the work fits before the
/// deadline, filled from the deadline backwards with as many GPUs as are free, at most the quota.
/// Takes them from `free`. Empty when no quota is enough; then `free` is as before.
std::optional<SlotPlan> FillBackwards(const SlotDemand& demand, std::vector<int>& free);

/// A plan for each of the demands, which are in order of deadlines, on a cluster of `gpus`; empty
/// when some deadline cannot hold.
std::optional<std::vector<SlotPlan>> PlanSlots(absl::Span<const SlotDemand> demands, int gpus,
                                               double slot_s);

}  // namespace tide::sched

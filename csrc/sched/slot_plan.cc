// Quotas from the smallest; a slot gives the largest of a job's sizes that is free.
#include "sched/slot_plan.h"

#include <algorithm>

namespace tide::sched {

std::optional<SlotPlan> FillBackwards(const SlotDemand& demand, std::vector<int>& free) {
  for (size_t quota = 0; quota < demand.sizes.size(); ++quota) {
    SlotPlan plan(demand.slots, 0);
    double left = demand.work;
    for (int slot = demand.slots - 1; slot >= 0 && left > 0; --slot) {
      size_t level = quota + 1;
      while (level > 0 && demand.sizes[level - 1] > free[slot]) --level;
      if (level == 0) continue;
      plan[slot] = demand.sizes[level - 1];
      left -= demand.speeds[level - 1];
    }
    if (left > 0) continue;
    for (int slot = 0; slot < demand.slots; ++slot) free[slot] -= plan[slot];
    return plan;
  }
  return std::nullopt;
}

std::optional<std::vector<SlotPlan>> PlanSlots(absl::Span<const SlotDemand> demands, int gpus,
                                               double slot_s) {
  int slots = 0;
  for (const SlotDemand& demand : demands) slots = std::max(slots, demand.slots);
  std::vector<int> free(slots, gpus);
  std::vector<SlotPlan> plans;
  for (SlotDemand demand : demands) {
    demand.work /= slot_s;  // in slots at speed one
    std::optional<SlotPlan> plan = FillBackwards(demand, free);
    if (!plan) return std::nullopt;
    plans.push_back(*std::move(plan));
  }
  return plans;
}

}  // namespace tide::sched

// rr: one iteration each: the fewest iterations go first, and among equals the next slot after the
// holder.
#include "sched/turn_policies.h"

namespace tide::sched {

TurnDecision NextTurnRr(absl::Span<const TurnMember> members, const TurnState& state) {
  const SlotId from = state.holder.value_or(SlotId(-1));
  // Slots after the holder come before those up to and with it: a circle that starts behind the
  // holder.
  const auto before = [from](const TurnMember& a, const TurnMember& b) {
    if (a.iterations != b.iterations) return a.iterations < b.iterations;
    const bool a_after = a.id > from, b_after = b.id > from;
    return a_after != b_after ? a_after : a.id < b.id;
  };
  return Choose(FirstReady(members, before), "it is next in the round");
}

}  // namespace tide::sched

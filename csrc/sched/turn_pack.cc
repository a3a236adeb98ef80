// pack: Salus's PACK on an exclusive lane: the holder keeps the turn for a quantum (NextTurn sees
// to that), then the next by arrival has it, around the circle.
#include "sched/turn_policies.h"

namespace tide::sched {

TurnDecision NextTurnPack(absl::Span<const TurnMember> members, const TurnState& state) {
  const TurnMember* holder = nullptr;
  for (const TurnMember& member : members) {
    if (state.holder && member.id == *state.holder) holder = &member;
  }
  // Arrivals after the holder's come before the earlier ones and the holder itself.
  const auto before = [holder](const TurnMember& a, const TurnMember& b) {
    const bool a_after = holder == nullptr || EarlierArrival(*holder, a);
    const bool b_after = holder == nullptr || EarlierArrival(*holder, b);
    return a_after != b_after ? a_after : EarlierArrival(a, b);
  };
  return Choose(FirstReady(members, before), "it is next by arrival");
}

}  // namespace tide::sched

// fifo: who joined first runs until it leaves; others fill the gaps in which it is not ready.
#include "sched/turn_policies.h"

namespace tide::sched {

TurnDecision NextTurnFifo(absl::Span<const TurnMember> members, const TurnState&) {
  return Choose(FirstReady(members, EarlierArrival), "it joined first of those that are ready");
}

}  // namespace tide::sched

// fair: the least weighted service goes first; over time the members' service is in proportion to
// their weights.
#include "sched/turn_policies.h"

namespace tide::sched {

TurnDecision NextTurnFair(absl::Span<const TurnMember> members, const TurnState&) {
  return Choose(FirstReady(members, LessServed), "it has had the least service for its weight");
}

}  // namespace tide::sched

// priority: the highest priority goes first, and among equals the least weighted service.
#include "sched/turn_policies.h"

namespace tide::sched {

TurnDecision NextTurnPriority(absl::Span<const TurnMember> members, const TurnState&) {
  const auto before = [](const TurnMember& a, const TurnMember& b) {
    return a.priority != b.priority ? a.priority > b.priority : LessServed(a, b);
  };
  return Choose(FirstReady(members, before), "it has the highest priority of those that are ready");
}

}  // namespace tide::sched

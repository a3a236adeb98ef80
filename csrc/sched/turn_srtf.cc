// srtf: the shortest predicted remaining service goes first, what is not predicted goes last. Who
// is still learning runs before all: a few iterations are all that a prediction takes.
#include "sched/turn_policies.h"

namespace tide::sched {

TurnDecision NextTurnSrtf(absl::Span<const TurnMember> members, const TurnState&) {
  const auto before = [](const TurnMember& a, const TurnMember& b) {
    if (a.learning != b.learning) return a.learning;
    if (a.learning) return EarlierArrival(a, b);
    if (a.remaining.has_value() != b.remaining.has_value()) return a.remaining.has_value();
    if (a.remaining && *a.remaining != *b.remaining) return *a.remaining < *b.remaining;
    return a.remaining ? EarlierArrival(a, b) : LessServed(a, b);
  };
  const TurnMember* first = FirstReady(members, before);
  if (first != nullptr && first->learning)
    return Choose(first, "its first iterations are measured");
  const bool predicted = first != nullptr && first->remaining.has_value();
  return Choose(
      first, predicted ? "it has the shortest predicted remaining service"
                       : "nobody's remaining service is predicted; it has had the least service");
}

}  // namespace tide::sched

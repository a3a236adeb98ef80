// srtf: the shortest predicted remaining service goes first, what is not predicted goes last. Who
// is still learning and not predicted runs before all: a few iterations are all that it takes.
#include "sched/turn_policies.h"

namespace tide::sched {

TurnDecision NextTurnSrtf(absl::Span<const TurnMember> members, const TurnState&) {
  const auto before = [](const TurnMember& a, const TurnMember& b) {
    const bool a_unmeasured = a.learning && !a.remaining.has_value();
    const bool b_unmeasured = b.learning && !b.remaining.has_value();
    if (a_unmeasured != b_unmeasured) return a_unmeasured;
    if (a_unmeasured) return EarlierArrival(a, b);
    if (a.remaining.has_value() != b.remaining.has_value()) return a.remaining.has_value();
    if (a.remaining && *a.remaining != *b.remaining) return *a.remaining < *b.remaining;
    return a.remaining ? EarlierArrival(a, b) : LessServed(a, b);
  };
  const TurnMember* first = FirstReady(members, before);
  const bool predicted = first != nullptr && first->remaining.has_value();
  if (first != nullptr && first->learning && !predicted)
    return Choose(first, "its first iterations are measured");
  return Choose(
      first, predicted ? "it has the shortest predicted remaining service"
                       : "nobody's remaining service is predicted; it has had the least service");
}

}  // namespace tide::sched

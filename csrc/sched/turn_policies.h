// The turn policies by name, for the table in turn_policy.cc, and what they share.
#pragma once

#include "sched/turn_policy.h"

namespace tide::sched {

TurnDecision NextTurnFair(absl::Span<const TurnMember> members, const TurnState& state);
TurnDecision NextTurnFifo(absl::Span<const TurnMember> members, const TurnState& state);
TurnDecision NextTurnRr(absl::Span<const TurnMember> members, const TurnState& state);
TurnDecision NextTurnSrtf(absl::Span<const TurnMember> members, const TurnState& state);
TurnDecision NextTurnPack(absl::Span<const TurnMember> members, const TurnState& state);
TurnDecision NextTurnPriority(absl::Span<const TurnMember> members, const TurnState& state);

/// The ready member for which `before(a, b)` holds against all others; nullptr when none is ready.
/// `before` is a strict order without ties.
template <typename Before>
const TurnMember* FirstReady(absl::Span<const TurnMember> members, Before before) {
  const TurnMember* first = nullptr;
  for (const TurnMember& member : members) {
    if (member.ready && (first == nullptr || before(member, *first))) first = &member;
  }
  return first;
}

inline TurnDecision Choose(const TurnMember* member, const char* reason) {
  if (member == nullptr) return {.next = std::nullopt, .reason = "nobody is ready"};
  return {.next = member->id, .reason = reason};
}

/// Order of arrival; slots decide between equal times.
inline bool EarlierArrival(const TurnMember& a, const TurnMember& b) {
  return a.joined != b.joined ? a.joined < b.joined : a.id < b.id;
}

/// Least virtual service, then fewest iterations, then arrival.
inline bool LessServed(const TurnMember& a, const TurnMember& b) {
  if (a.virtual_service != b.virtual_service) return a.virtual_service < b.virtual_service;
  if (a.iterations != b.iterations) return a.iterations < b.iterations;
  return EarlierArrival(a, b);
}

}  // namespace tide::sched

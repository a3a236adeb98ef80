// The table of turn policies and what holds for all of them.
#include "sched/turn_policy.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "sched/turn_policies.h"

namespace tide::sched {
namespace {

struct TurnEntry {
  TurnPolicyId id;
  const char* name;
  TurnDecision (*decide)(absl::Span<const TurnMember>, const TurnState&);
};

constexpr TurnEntry kTurnPolicies[kTurnPolicyCount] = {
    {TurnPolicyId::kFair, "fair", NextTurnFair},
    {TurnPolicyId::kFifo, "fifo", NextTurnFifo},
    {TurnPolicyId::kRr, "rr", NextTurnRr},
    {TurnPolicyId::kSrtf, "srtf", NextTurnSrtf},
    {TurnPolicyId::kPack, "pack", NextTurnPack},
    {TurnPolicyId::kPriority, "priority", NextTurnPriority},
};

const TurnEntry* Find(TurnPolicyId policy) {
  for (const TurnEntry& entry : kTurnPolicies) {
    if (entry.id == policy) return &entry;
  }
  return nullptr;
}

// The holder if it is a ready member, else nullptr.
const TurnMember* ReadyHolder(absl::Span<const TurnMember> members, const TurnState& state) {
  if (!state.holder) return nullptr;
  for (const TurnMember& member : members) {
    if (member.id == *state.holder) return member.ready ? &member : nullptr;
  }
  return nullptr;
}

// The minimum of `value` over ready members but self, else over all but self, else zero.
template <typename Result, typename Value>
Result Minimum(absl::Span<const TurnMember> members, SlotId self, Value value) {
  std::optional<Result> of_ready, of_all;
  for (const TurnMember& member : members) {
    if (member.id == self) continue;
    const Result its = value(member);
    of_all = of_all ? std::min(*of_all, its) : its;
    if (member.ready) of_ready = of_ready ? std::min(*of_ready, its) : its;
  }
  return of_ready ? *of_ready : of_all.value_or(Result());
}

}  // namespace

const char* TurnPolicyName(TurnPolicyId policy) {
  const TurnEntry* entry = Find(policy);
  return entry != nullptr ? entry->name : "unknown";
}

absl::StatusOr<TurnPolicyId> ParseTurnPolicy(absl::string_view name) {
  std::string names;
  for (const TurnEntry& entry : kTurnPolicies) {
    if (name == entry.name) return entry.id;
    absl::StrAppend(&names, names.empty() ? "" : ", ", entry.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no turn policy is called \"", name, "\"; there are ", names));
}

TurnDecision NextTurn(TurnPolicyId policy, absl::Span<const TurnMember> members,
                      const TurnState& state) {
  const TurnEntry* entry = Find(policy);
  if (entry == nullptr) entry = Find(TurnPolicyId::kFair);
  const TurnMember* holder = ReadyHolder(members, state);
  if (holder == nullptr) return entry->decide(members, state);
  const bool learning = holder->learning && state.served_since_grant < kLearningMax;
  if (!learning && state.served_since_grant >= state.quantum) return entry->decide(members, state);
  if (entry->id == TurnPolicyId::kPriority) {
    for (const TurnMember& member : members) {
      if (member.ready && member.priority > holder->priority) return entry->decide(members, state);
    }
  }
  return {.next = holder->id,
          .reason = learning ? "it learns its lifetimes" : "its quantum is not over"};
}

absl::Duration StartLine(absl::Span<const TurnMember> members, SlotId self) {
  return Minimum<absl::Duration>(members, self,
                                 [](const TurnMember& m) { return m.virtual_service; });
}

int64_t StartRound(absl::Span<const TurnMember> members, SlotId self) {
  return Minimum<int64_t>(members, self, [](const TurnMember& m) { return m.iterations; });
}

void Charge(TurnMember& member, absl::Duration took) {
  member.service += took;
  member.virtual_service += took / member.weight;
}

}  // namespace tide::sched

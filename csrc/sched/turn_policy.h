// Who gets the turn next on a lane: pure decisions over value types, one policy a file.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/ids.h"

namespace tide::sched {

/// As in JobSlot::priority; larger goes first.
enum class Priority : uint32_t { kOpportunistic = 0, kNormal = 1, kGuaranteed = 2 };

/// What a policy knows of one member of the lane.
struct TurnMember {
  SlotId id;
  absl::Duration joined;                    // monotonic time at which it joined
  absl::Duration service;                   // time it has held the turn
  absl::Duration virtual_service;           // service over weight; a newcomer starts at StartLine
  int64_t iterations = 0;                   // done; a newcomer starts at the fewest of the others
  std::optional<absl::Duration> remaining;  // predicted service until it ends
  double weight = 1.0;                      // > 0
  Priority priority = Priority::kNormal;
  bool ready = false;             // wants the turn
  bool learning = false;          // its scratch is its own until its lifetimes are learnt
  absl::Duration last_iteration;  // duration of its last iteration
};

/// The lane at the moment of the decision.
struct TurnState {
  std::optional<SlotId> holder;       // who holds or held the turn last
  absl::Duration now;                 // monotonic
  absl::Duration quantum;             // shortest service before the turn passes
  absl::Duration served_since_grant;  // how long the holder has had the turn
};

/// The next holder and why; `next` is empty when nobody is ready. `reason` is a literal.
struct TurnDecision {
  std::optional<SlotId> next;
  const char* reason = "";
};

/// The published names are fair, fifo, rr, srtf, pack and priority; fair is what an untouched table
/// says.
enum class TurnPolicyId : uint32_t {
  kFair = 0,
  kFifo = 1,
  kRr = 2,
  kSrtf = 3,
  kPack = 4,
  kPriority = 5
};
inline constexpr int kTurnPolicyCount = 6;

/// "fair", "fifo", ...; "unknown" for a number that is none.
const char* TurnPolicyName(TurnPolicyId policy);
/// Errors: InvalidArgument with the accepted names.
absl::StatusOr<TurnPolicyId> ParseTurnPolicy(absl::string_view name);

/// Longest time for which a learning holder keeps the turn.
inline constexpr absl::Duration kLearningMax = absl::Seconds(20);

/// Decides who runs next. Deterministic, allocates nothing, never names a member that is not ready.
/// A holder that is ready and has had less than the quantum keeps the turn (for `priority`: unless
/// a higher one is ready); so does one that is learning, for at most kLearningMax: its first
/// iterations run undisturbed, as Salus has it, or each of several learners would give its private
/// scratch to the next and take it again. An unknown policy number (a table written by a newer
/// version) decides as fair.
TurnDecision NextTurn(TurnPolicyId policy, absl::Span<const TurnMember> members,
                      const TurnState& state);

/// The virtual service at which a newcomer starts, so that it neither monopolises the lane nor
/// starves: the minimum of the ready members other than `self`, else of all others, else zero.
absl::Duration StartLine(absl::Span<const TurnMember> members, SlotId self);
/// The same for iterations (rr).
int64_t StartRound(absl::Span<const TurnMember> members, SlotId self);

/// Books service on a member as a lane does: service grows by `took`, virtual service by took /
/// weight.
void Charge(TurnMember& member, absl::Duration took);

}  // namespace tide::sched

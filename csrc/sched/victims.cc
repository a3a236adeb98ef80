// Orders jobs by how little it hurts to take their memory and takes whole pages until the need is
// met.
#include "sched/victims.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"

namespace tide::sched {
namespace {

// What may be taken: not below the guaranteed share, not more than it can give, whole pages.
Bytes Takeable(const VictimMember& member) {
  const Bytes bytes = std::min(member.resident - member.guaranteed, member.reclaimable);
  return kPage * std::max<int64_t>(bytes / kPage, 0);
}

bool TakenFirst(const VictimMember* a, const VictimMember* b) {
  if (a->priority != b->priority) return a->priority < b->priority;
  const int a_turns = a->turns_until_next.value_or(std::numeric_limits<int>::max());
  const int b_turns = b->turns_until_next.value_or(std::numeric_limits<int>::max());
  if (a_turns != b_turns) return a_turns > b_turns;
  if (a->last_run != b->last_run) return a->last_run < b->last_run;
  return a->id < b->id;
}

Priority PriorityOf(absl::Span<const VictimMember> members, SlotId requester) {
  for (const VictimMember& member : members) {
    if (member.id == requester) return member.priority;
  }
  return Priority::kNormal;
}

}  // namespace

VictimChoice ChooseVictims(absl::Span<const VictimMember> members, Bytes need, SlotId requester) {
  VictimChoice choice;
  if (need <= Bytes(0)) {
    choice.reason = "nothing is needed";
    return choice;
  }
  const Priority asks = PriorityOf(members, requester);
  std::vector<const VictimMember*> candidates;
  for (const VictimMember& member : members) {
    const bool spared = member.id == requester || member.priority >= Priority::kGuaranteed ||
                        member.priority > asks;
    if (!spared && Takeable(member) > Bytes(0)) candidates.push_back(&member);
  }
  std::sort(candidates.begin(), candidates.end(), TakenFirst);
  const Bytes wanted = PagesFor(need).bytes();
  Bytes missing = wanted;
  for (const VictimMember* member : candidates) {
    if (missing <= Bytes(0)) break;
    const Bytes taken = std::min(Takeable(*member), missing);
    choice.victims.push_back({.id = member->id, .bytes = taken});
    missing -= taken;
  }
  choice.shortfall = missing;
  choice.reason = absl::StrCat("needs ", FormatBytes(wanted), ": ", choice.victims.size(), " of ",
                               members.size(), " jobs give ", FormatBytes(wanted - missing),
                               " above their guaranteed shares");
  if (missing > Bytes(0)) {
    absl::StrAppend(&choice.reason, "; ", FormatBytes(missing),
                    " are missing because the rest is guaranteed, pinned or of higher priority");
  }
  return choice;
}

}  // namespace tide::sched

#include "sched/admission.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"

namespace tide::sched {
namespace {

struct Lane {
  int id = 0;
  int members = 0;
  Bytes scratch;  // largest among the members
};

struct Others {
  std::vector<Lane> lanes;  // those that may be chosen
  int jobs = 0;
  Bytes persistent;
  Bytes scratch;  // of all lanes
};

Others Count(absl::Span<const AdmissionMember> members, SlotId self,
             const AdmissionOptions& options) {
  Others others;
  std::vector<Lane> all;
  const int lanes = std::max({options.lanes_max, options.lane_fixed + 1, 1});
  for (int id = 0; id < lanes; ++id) all.push_back({.id = id});
  for (const AdmissionMember& member : members) {
    if (member.id == self || member.queued) continue;
    ++others.jobs;
    others.persistent += member.persistent;
    if (member.lane < 0) continue;
    while (member.lane >= static_cast<int>(all.size()))
      all.push_back({.id = static_cast<int>(all.size())});
    Lane& lane = all[member.lane];
    ++lane.members;
    lane.scratch = std::max(lane.scratch, member.scratch);
  }
  for (const Lane& lane : all) others.scratch += lane.scratch;
  // Lanes beyond the maximum are there by the wish of their members; nobody else is sent to them.
  if (options.lane_fixed >= 0) all = {all[options.lane_fixed]};
  if (options.lane_fixed < 0) all.resize(std::max(options.lanes_max, 1));
  others.lanes = std::move(all);
  return others;
}

Bytes Growth(const Lane& lane, Bytes scratch) { return std::max(scratch - lane.scratch, Bytes(0)); }

/// Whether `a` is the better lane for a job with `scratch`, by the order that the header gives.
bool Better(const Lane& a, const Lane& b, Bytes scratch) {
  if ((a.members == 0) != (b.members == 0)) return a.members == 0;
  const Bytes growth_a = Growth(a, scratch), growth_b = Growth(b, scratch);
  if (growth_a != growth_b) return growth_a < growth_b;
  if (a.scratch != b.scratch) return a.scratch < b.scratch;
  return a.members < b.members;
}

/// The queued job that must be admitted before `self`, or null.
const AdmissionMember* Ahead(absl::Span<const AdmissionMember> members,
                             const AdmissionMember& self) {
  const AdmissionMember* first = &self;
  for (const AdmissionMember& member : members) {
    if (!member.queued || member.id == self.id) continue;
    const bool before = member.priority != first->priority ? member.priority > first->priority
                        : member.joined != first->joined   ? member.joined < first->joined
                                                           : member.id.value() < first->id.value();
    if (before) first = &member;
  }
  return first == &self ? nullptr : first;
}

std::string Sum(const AdmissionMember& self, const Others& others, Bytes needed, Bytes capacity) {
  std::string text = absl::StrCat("persistent ", FormatBytes(self.persistent), " and scratch ",
                                  FormatBytes(self.scratch));
  if (others.jobs > 0) {
    absl::StrAppend(&text, " beside ", others.jobs, others.jobs == 1 ? " job" : " jobs", " with ",
                    FormatBytes(others.persistent + others.scratch));
  }
  absl::StrAppend(&text, " need ", FormatBytes(needed));
  if (capacity > Bytes(0)) absl::StrAppend(&text, " of ", FormatBytes(capacity));
  return text;
}

}  // namespace

AdmissionDecision Admit(absl::Span<const AdmissionMember> members, SlotId self,
                        const AdmissionOptions& options) {
  AdmissionDecision decision;
  const auto found = std::find_if(members.begin(), members.end(),
                                  [&](const AdmissionMember& member) { return member.id == self; });
  if (found == members.end()) {
    decision.reason = "it is not on this device";
    return decision;
  }
  const Others others = Count(members, self, options);
  if (!found->measured) {
    const auto emptiest =
        std::min_element(others.lanes.begin(), others.lanes.end(),
                         [](const Lane& a, const Lane& b) { return a.members < b.members; });
    decision.admit = decision.fits = true;
    decision.lane = emptiest->id;
    decision.needed = others.persistent + others.scratch;
    decision.reason = "its first iterations are measured";
    return decision;
  }
  const Bytes base = others.persistent + others.scratch + found->persistent;
  const auto fits = [&](const Lane& lane) {
    return options.capacity == Bytes(0) || base + Growth(lane, found->scratch) <= options.capacity;
  };
  const Lane* best = nullptr;
  for (const Lane& lane : others.lanes) {
    if (fits(lane) && (best == nullptr || Better(lane, *best, found->scratch))) best = &lane;
  }
  decision.fits = best != nullptr;
  // What does not fit should at least grow nothing more than it must.
  for (const Lane& lane : others.lanes) {
    if (decision.fits) break;
    if (best == nullptr || Growth(lane, found->scratch) < Growth(*best, found->scratch))
      best = &lane;
  }
  decision.lane = best->id;
  decision.needed = base + Growth(*best, found->scratch);
  decision.reason = Sum(*found, others, decision.needed, options.capacity);
  decision.admit = true;
  if (!decision.fits && options.queue && others.jobs > 0) {
    decision.admit = false;
    absl::StrAppend(&decision.reason, "; it waits until jobs end");
  } else if (const AdmissionMember* ahead = Ahead(members, *found);
             options.queue && ahead != nullptr) {
    decision.admit = false;
    absl::StrAppend(&decision.reason, "; another job came before it");
  } else if (!decision.fits) {
    absl::StrAppend(&decision.reason, "; ", FormatBytes(decision.needed - options.capacity),
                    " of pages that are not in use will be out between turns");
  }
  return decision;
}

}  // namespace tide::sched

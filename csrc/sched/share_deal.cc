// A group stays where most of it is; its other members move there.
#include "sched/share_deal.h"

#include <algorithm>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"

namespace tide::sched {

void ApplyGroups(const ClusterInput& input, const std::vector<JobIndex>& active,
                 const std::vector<ShareGroup>& groups, const char* start_reason,
                 const char* share_reason, const char* preempt_reason,
                 std::vector<JobAction>& actions) {
  const auto view = [&](JobIndex job) -> const JobView& { return input.jobs[job.value()]; };
  absl::btree_map<int, size_t> owner;          // holding -> the group that stays on it
  absl::btree_map<JobIndex, size_t> group_of;  // of each job that is to run
  for (size_t i = 0; i < groups.size(); ++i) {
    for (const JobIndex job : groups[i]) {
      group_of[job] = i;
      const int holding = view(job).holding;
      const bool fresh = std::none_of(owner.begin(), owner.end(),
                                      [&](const auto& entry) { return entry.second == i; });
      if (holding >= 0 && fresh) owner.try_emplace(holding, i);
    }
  }
  const auto stays = [&](JobIndex job) {
    const auto group = group_of.find(job);
    if (group == group_of.end() || view(job).holding < 0) return false;
    const auto found = owner.find(view(job).holding);
    return found != owner.end() && found->second == group->second;
  };
  for (const JobIndex job : active) {
    if (view(job).state != JobState::kRunning || stays(job)) continue;
    actions.push_back({.job = job, .kind = JobActionKind::kPreempt, .reason = preempt_reason});
  }
  for (const ShareGroup& group : groups) {
    const auto host = std::find_if(group.begin(), group.end(), stays);
    JobIndex beside = host == group.end() ? JobIndex() : *host;
    for (const JobIndex job : group) {
      if (stays(job)) continue;
      const bool alone = beside.value() < 0;
      actions.push_back(
          {.job = job, .reason = alone ? start_reason : share_reason, .beside = beside});
      if (alone) beside = job;
    }
  }
}

std::vector<ShareGroup> GroupsNow(const ClusterInput& input, const std::vector<JobIndex>& active) {
  std::vector<ShareGroup> groups;
  absl::flat_hash_map<int, size_t> group_of;  // by holding, whose numbers mean nothing
  for (const JobIndex job : active) {
    const JobView& view = input.jobs[job.value()];
    if (view.state != JobState::kRunning) continue;
    const auto [entry, is_new] = group_of.try_emplace(view.holding, groups.size());
    if (is_new) groups.emplace_back();
    groups[entry->second].push_back(job);
  }
  return groups;
}

void UpdateActive(const ClusterInput& input, std::vector<JobIndex>& active) {
  std::erase_if(active, [&](JobIndex job) {
    const JobState state = input.jobs[job.value()].state;
    return state != JobState::kRunning && state != JobState::kPending;
  });
  for (const JobEvent& event : input.events) {
    if (event.kind == JobEventKind::kArrival) active.push_back(event.job);
  }
}

}  // namespace tide::sched

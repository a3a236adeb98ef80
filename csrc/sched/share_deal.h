// What the policies that let jobs share GPUs have in common: who runs, and who beside whom, becomes
// starts and preemptions.
#pragma once

#include <vector>

#include "sched/cluster_policy.h"

namespace tide::sched {

/// Jobs on the same GPUs, all of one size.
using ShareGroup = std::vector<JobIndex>;

/// The actions that lead from what runs to exactly `groups`. A job whose group is what it shares
/// GPUs with already stays; one that runs elsewhere is preempted and starts again, which the
/// caller's groups should avoid. `groups` must fit.
void ApplyGroups(const ClusterInput& input, const std::vector<JobIndex>& active,
                 const std::vector<ShareGroup>& groups, const char* start_reason,
                 const char* share_reason, const char* preempt_reason,
                 std::vector<JobAction>& actions);

/// Those of `active` that run, by the GPUs they hold.
std::vector<ShareGroup> GroupsNow(const ClusterInput& input, const std::vector<JobIndex>& active);

/// Drops from `active` the jobs that ended or were refused and appends those that arrived.
void UpdateActive(const ClusterInput& input, std::vector<JobIndex>& active);

}  // namespace tide::sched

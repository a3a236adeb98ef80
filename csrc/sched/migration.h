// Jobs on more nodes than they need, and which of them is worth moving.
#pragma once

#include <vector>

#include "sched/cluster_policy.h"

namespace tide::sched {

/// The first of `active` that runs, alone on its GPUs, on more nodes than it needs, is slower for
/// it, and would have few enough nodes if it stopped and started again at once. It must have lost
/// more than `cost_s` by it so far: how long jobs will run is not known, as long as they have is a
/// guess. None where nodes do not matter.
JobIndex WorthMoving(const ClusterInput& input, const std::vector<JobIndex>& active, double cost_s);

/// Moves that job when `decision` changes nothing else, and wakes again after `pause_s`: one at a
/// time, so that what was free for it still is.
void MoveOne(const ClusterInput& input, const std::vector<JobIndex>& active, double cost_s,
             double pause_s, ClusterDecision& decision);

}  // namespace tide::sched

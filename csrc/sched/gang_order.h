// What the policies without preemption share: waiting gangs start in a fixed order, misfits are
// passed.
#pragma once

#include <memory>

#include "sched/cluster_policy.h"

namespace tide::sched {

/// Starts the waiting job with the smallest `key` (then the earliest submitted) that fits, until
/// none does. `reason` is a literal.
std::unique_ptr<ClusterPolicy> MakeGangOrder(double (*key)(const JobView& job), const char* reason);

}  // namespace tide::sched

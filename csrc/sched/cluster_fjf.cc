// fjf, first job that fits: in order of submission, passing over gangs that do not fit.
#include "sched/cluster_policies.h"
#include "sched/gang_order.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeFjf(const ClusterPolicyOptions&) {
  return MakeGangOrder([](const JobView&) { return 0.0; },
                       "it is the first in line of those that fit");
}

}  // namespace tide::sched

// antman: guaranteed jobs are placed at once, opportunistic ones run on what is left and give way.
#include "sched/cluster_policies.h"
#include "sched/ranked_deal.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeAntman(const ClusterPolicyOptions&) {
  return MakeRankedDeal(
      {.key = [](const JobView& job) { return job.tier == JobTier::kOpportunistic ? 1.0 : 0.0; },
       .start_reason = "it fits, and no job of its class is ahead of it",
       .preempt_reason = "it is opportunistic and guaranteed jobs need its GPUs"});
}

}  // namespace tide::sched

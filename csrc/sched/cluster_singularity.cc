// singularity: three tiers; a higher one takes the GPUs of the lowest first, the rest is work
// conserving.
#include "sched/cluster_policies.h"
#include "sched/ranked_deal.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeSingularity(const ClusterPolicyOptions&) {
  return MakeRankedDeal(
      {.key = [](const JobView& job) { return -static_cast<double>(job.tier); },
       .start_reason = "it fits, and no job of its tier or a higher one is ahead of it",
       .preempt_reason = "jobs of a higher tier need its GPUs"});
}

}  // namespace tide::sched

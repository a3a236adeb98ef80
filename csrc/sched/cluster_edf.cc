// edf: the job whose deadline comes first goes first, jobs without one go last; preemptive.
#include "sched/cluster_policies.h"
#include "sched/ranked_deal.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeEdf(const ClusterPolicyOptions&) {
  return MakeRankedDeal({.key = [](const JobView& job) { return job.deadline_s; },
                         .start_reason = "of the jobs that fit its deadline comes first",
                         .preempt_reason = "jobs with earlier deadlines need its GPUs"});
}

}  // namespace tide::sched

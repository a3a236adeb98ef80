// muri-l: jobs grouped by interleaving stages, those with the least attained GPU time, durations
// unknown first.
#include "sched/cluster_policies.h"
#include "sched/muri.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeMuriL(const ClusterPolicyOptions& options) {
  return MakeMuriPolicy(
      {.by_remaining = false, .round_s = options.round_s > 0 ? options.round_s : 360});
}

}  // namespace tide::sched

// muri-s: jobs grouped by interleaving stages, those with the least remaining GPU time first.
#include "sched/cluster_policies.h"
#include "sched/muri.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeMuriS(const ClusterPolicyOptions& options) {
  return MakeMuriPolicy(
      {.by_remaining = true, .round_s = options.round_s > 0 ? options.round_s : 360});
}

}  // namespace tide::sched

// What muri-s and muri-l share: jobs grouped so that their stages of storage, CPU, GPU and network
// interleave.
#pragma once

#include <memory>

#include "sched/cluster_policy.h"
#include "sched/share_deal.h"

namespace tide::sched {

struct MuriOptions {
  bool by_remaining = true;  // priority by remaining GPU time (muri-s), else by attained (muri-l)
  double round_s = 360;
};

std::unique_ptr<ClusterPolicy> MakeMuriPolicy(const MuriOptions& options);

/// How well the stages of `group` interleave: the sum of all stages over the stages there are in an
/// iteration of the group, in (0, 1]; 0 when the stages of one are not known, when they are more
/// than may share, or when an iteration of the group takes longer than theirs one after another.
double InterleavingEfficiency(const ClusterInput& input, const ShareGroup& group);

}  // namespace tide::sched

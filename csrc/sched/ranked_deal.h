// What the policies with a fixed order of jobs share: a better job takes the GPUs of worse ones.
#pragma once

#include <memory>

#include "sched/cluster_policy.h"

namespace tide::sched {

struct RankedDealOptions {
  double (*key)(const JobView& job) = nullptr;  // smaller goes first; must not change in its life
  const char* start_reason = "";
  const char* preempt_reason = "";
};

/// At each event the GPUs are dealt out anew in order of the key, misfits passed over. Among equal
/// keys running jobs go before waiting ones and earlier before later ones, so nobody is preempted
/// for the sake of an equal.
std::unique_ptr<ClusterPolicy> MakeRankedDeal(const RankedDealOptions& options);

}  // namespace tide::sched

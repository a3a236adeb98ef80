// The table of cluster policies by published name.
#include "sched/cluster_policy.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "sched/cluster_policies.h"

namespace tide::sched {
namespace {

struct Entry {
  ClusterPolicyInfo info;
  std::unique_ptr<ClusterPolicy> (*make)(const ClusterPolicyOptions&);
};

constexpr Entry kPolicies[] = {
    {{"fifo", "order of submission; the first misfit holds up the rest"}, MakeFifo},
    {{"fjf", "order of submission; misfits are passed over"}, MakeFjf},
    {{"srtf", "least remaining seconds first, preemptive"}, MakeSrtf},
    {{"srsf", "least remaining GPU-seconds first, preemptive"}, MakeSrsf},
    {{"dlas", "least attained seconds first, in queues"}, MakeDlas},
    {{"dlas-gpu", "least attained GPU-seconds first, in queues, with the published demotion clock"},
     MakeDlasGpu},
    {{"dlas-gpu-fixed", "least attained GPU-seconds first, in queues"}, MakeDlasGpuFixed},
    {{"gittins", "highest Gittins index by the sizes of finished jobs, in rounds"}, MakeGittins},
    {{"edf", "earliest deadline first, preemptive"}, MakeEdf},
    {{"edf-admit", "edf over jobs whose deadlines can all be met; others are refused"},
     MakeEdfAdmit},
    {{"srtf-restart", "least remaining seconds first, preempts for more than a restart costs"},
     MakeSrtfRestart},
    {{"qssf", "fewest predicted GPU-seconds first, stops at the first misfit, no preemption"},
     MakeQssf},
    {{"pai", "least predicted seconds first by history of the group, no preemption"}, MakePai},
    {{"themis", "worst finish-time ratio first at the end of each lease; stand-in for the auction"},
     MakeThemis},
    {{"gandiva-fair", "equal GPU time for every user by a gang-aware stride"}, MakeGandivaFair},
    {{"max-min", "equal GPU time for every job by water filling, in rounds"}, MakeMaxMin},
    {{"finish-time", "least worst finish-time ratio, in rounds"}, MakeFinishTime},
    {{"makespan", "shares with which all jobs end together, in rounds"}, MakeMakespan},
    {{"antman", "opportunistic jobs run on what guaranteed ones leave"}, MakeAntman},
    {{"singularity", "three tiers, the lowest is preempted first"}, MakeSingularity},
};

// Other names under which the same rules were published.
constexpr std::pair<const char*, const char*> kAliases[] = {{"shortest", "srtf"},
                                                            {"shortest-gpu", "srsf"}};

absl::Status CheckOptions(const ClusterPolicyOptions& options) {
  double before = 0;
  for (const double limit : options.queue_limits_s) {
    if (!(limit > before) || limit == kNever) {
      return absl::InvalidArgumentError(
          "the limits of queues must be positive and ascending; such as 3250, 7200");
    }
    before = limit;
  }
  for (const double value : {options.starvation_knob, options.round_s, options.restart_cost_s}) {
    if (!(value >= 0) || value == kNever) {
      return absl::InvalidArgumentError(
          absl::StrCat("an option of the policy is ", value, "; give a number from 0 upwards"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<ClusterPolicyInfo> ClusterPolicies() {
  std::vector<ClusterPolicyInfo> infos;
  for (const Entry& entry : kPolicies) infos.push_back(entry.info);
  return infos;
}

absl::StatusOr<std::unique_ptr<ClusterPolicy>> MakeClusterPolicy(
    absl::string_view name, const ClusterPolicyOptions& options) {
  TIDE_RETURN_IF_ERROR(CheckOptions(options));
  for (const auto& [alias, published] : kAliases) {
    if (name == alias) name = published;
  }
  std::string names;
  for (const Entry& entry : kPolicies) {
    if (name == entry.info.name) return entry.make(options);
    absl::StrAppend(&names, names.empty() ? "" : ", ", entry.info.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no cluster policy is called \"", name, "\"; there are ", names));
}

}  // namespace tide::sched

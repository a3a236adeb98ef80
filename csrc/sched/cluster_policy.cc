// The table of cluster policies by published name.
#include "sched/cluster_policy.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "sched/cluster_policies.h"

namespace tide::sched {
namespace {

using Maker = std::unique_ptr<ClusterPolicy> (*)(const ClusterPolicyOptions&);

// kPolicies[i] is made by kMakers[i].
constexpr ClusterPolicyInfo kPolicies[] = {
    {"fifo", "order of submission; the first misfit holds up the rest"},
    {"fjf", "order of submission; misfits are passed over"},
    {"srtf", "least remaining seconds first, preemptive"},
    {"srsf", "least remaining GPU-seconds first, preemptive"},
    {"dlas", "least attained seconds first, in queues"},
    {"dlas-gpu", "least attained GPU-seconds first, in queues, with the published demotion clock"},
    {"dlas-gpu-fixed", "least attained GPU-seconds first, in queues"},
};
constexpr Maker kMakers[] = {MakeFifo, MakeFjf,     MakeSrtf,        MakeSrsf,
                             MakeDlas, MakeDlasGpu, MakeDlasGpuFixed};
static_assert(std::size(kPolicies) == std::size(kMakers));

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

absl::Span<const ClusterPolicyInfo> ClusterPolicies() { return kPolicies; }

absl::StatusOr<std::unique_ptr<ClusterPolicy>> MakeClusterPolicy(
    absl::string_view name, const ClusterPolicyOptions& options) {
  TIDE_RETURN_IF_ERROR(CheckOptions(options));
  for (const auto& [alias, published] : kAliases) {
    if (name == alias) name = published;
  }
  std::string names;
  for (size_t i = 0; i < std::size(kPolicies); ++i) {
    if (name == kPolicies[i].name) return kMakers[i](options);
    absl::StrAppend(&names, names.empty() ? "" : ", ", kPolicies[i].name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no cluster policy is called \"", name, "\"; there are ", names));
}

}  // namespace tide::sched

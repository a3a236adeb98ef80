// dlas-gpu-fixed, least attained service by GPU-seconds, demoted when the limit is reached.
#include "sched/attained_service.h"
#include "sched/cluster_policies.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeDlasGpuFixed(const ClusterPolicyOptions& options) {
  return MakeAttainedService({.unit = ServiceUnit::kGpuSeconds,
                              .clock = DemotionClock::kExact,
                              .limits = QueueLimits(options),
                              .starvation_knob = options.starvation_knob});
}

}  // namespace tide::sched

// dlas-gpu, least attained service by GPU-seconds, with the published demotion clock.
#include "sched/attained_service.h"
#include "sched/cluster_policies.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeDlasGpu(const ClusterPolicyOptions& options) {
  return MakeAttainedService({.unit = ServiceUnit::kGpuSeconds,
                              .clock = DemotionClock::kAsPublished,
                              .limits = QueueLimits(options),
                              .starvation_knob = options.starvation_knob});
}

}  // namespace tide::sched

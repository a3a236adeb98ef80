// dlas, discretised least attained service by seconds of running.
#include "sched/attained_service.h"
#include "sched/cluster_policies.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeDlas(const ClusterPolicyOptions& options) {
  return MakeAttainedService({.unit = ServiceUnit::kSeconds,
                              .clock = DemotionClock::kExact,
                              .limits = QueueLimits(options),
                              .starvation_knob = options.starvation_knob});
}

}  // namespace tide::sched

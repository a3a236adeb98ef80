// What the dlas policies share: queues by service had, where less service goes first.
#pragma once

#include <memory>
#include <vector>

#include "sched/cluster_policy.h"

namespace tide::sched {

enum class ServiceUnit : uint8_t { kSeconds, kGpuSeconds };

/// When a running job is looked at again because it may leave its queue. As published, the wait of
/// dlas-gpu mixes units: floor((limit in GPU-seconds - service in seconds) / GPUs), which comes too
/// early or, for a job far over the limit, lies in the past and lets time step back.
enum class DemotionClock : uint8_t { kExact, kAsPublished };

struct AttainedServiceOptions {
  ServiceUnit unit = ServiceUnit::kGpuSeconds;
  DemotionClock clock = DemotionClock::kExact;
  std::vector<double> limits;  // service that ends each queue but the last; ascending
  double starvation_knob = 0;  // a job that waits so many times its service starts over; 0: off
};

/// Two-dimensional least attained service of Tiresias (NSDI 2019). Queues in order; within one,
/// jobs that ran go before jobs that waited, otherwise the order in which they came into it.
std::unique_ptr<ClusterPolicy> MakeAttainedService(const AttainedServiceOptions& options);

/// The limits of the options, or those that were published with the code: 3250 and 7200.
std::vector<double> QueueLimits(const ClusterPolicyOptions& options);

}  // namespace tide::sched

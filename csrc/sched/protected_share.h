// What antman and tgs share: opportunistic jobs beside protected ones, at a pace that a law sets by
// how fast the protected ones run.
#pragma once

#include <memory>

#include "sched/cluster_policy.h"

namespace tide::sched {

struct ProtectedShareOptions {
  bool needs_room = true;      // a guest needs memory and idle time on the GPUs beside the host
  double control_s = 60;       // how often the pace is set
  double first_pace = 0.1;     // of a guest
  double step_up = 0.05;       // while the host keeps its speed
  double step_down = 0.5;      // factor when it does not
  double loss_allowed = 0.05;  // of the host's speed
  const char* start_reason = "";
  const char* preempt_reason = "";
};

/// Guaranteed and standard jobs are placed at once and take GPUs from opportunistic ones, which run
/// on what is left over, or as guests on the GPUs of one protected job each. Nobody is preempted
/// for an equal.
std::unique_ptr<ClusterPolicy> MakeProtectedShare(const ProtectedShareOptions& options);

/// The next pace of a guest: additive up while the host keeps its speed, multiplicative down when
/// not; within [0.01, 1].
double NextPace(double pace, double host_speed, const ProtectedShareOptions& options);

}  // namespace tide::sched

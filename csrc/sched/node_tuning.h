// How the CPUs and the memory of a machine are divided among the jobs on its GPUs.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "sched/job_profile.h"

namespace tide::sched {

/// What a machine has; 0 of something: it is never short.
struct NodeSize {
  int gpus = 1;
  double cpus = 0, memory_gib = 0;
};

/// A job's GPUs of the machine, and what it makes of CPUs and memory; null: nothing is known.
struct NodeDemand {
  double gpus = 1;
  const JobProfile* profile = nullptr;
};

/// Of one job.
struct NodePart {
  double cpus = 0, memory_gib = 0;
};

/// As many of the CPUs and as much of the memory as it has of the GPUs.
std::vector<NodePart> ProportionalParts(absl::Span<const NodeDemand> jobs, const NodeSize& node);

/// Nobody gets more than it makes something of; what it leaves of its proportional part goes to
/// those who can use more, the most GPUs first, then the most that is enough (Synergy-TUNE, OSDI
/// 2022). Nobody is slower than with its proportional part.
std::vector<NodePart> TunedParts(absl::Span<const NodeDemand> jobs, const NodeSize& node);

/// Speed with that part, over the speed with enough of both.
double HostSpeed(const NodeDemand& job, const NodePart& part, const NodeSize& node);

/// A policy that divides machines otherwise than in proportion to GPUs.
class NodeTuner {
 public:
  virtual ~NodeTuner() = default;
  virtual std::vector<NodePart> Divide(absl::Span<const NodeDemand> jobs,
                                       const NodeSize& node) const = 0;
};

}  // namespace tide::sched

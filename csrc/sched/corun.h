// How fast jobs run that share the same GPUs: the model that policies plan with and simulations
// use.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "sched/job_profile.h"

namespace tide::sched {

struct CorunMember {
  int profile = -1;  // of Profiles::of; -1: it keeps its GPUs busy
  double pace = 1;   // share of the time that it may use at most
};

/// The shortest iteration of jobs that take turns at storage, CPU, GPU and network: each goes
/// through the stages in order, all at different ones (Muri, SIGCOMM 2022). The sum of the slowest
/// stages of each step, for the best of the orders. At most kShareMax jobs.
double InterleavedSeconds(absl::Span<const JobProfile* const> jobs);

/// Speed of each member over its speed alone, in (0, 1]. Pairs that were measured have their
/// speeds; jobs with known stages interleave them; others share the time of the GPUs in proportion
/// to how busy they keep them, when that is more than there is. On GPUs too small for all the
/// memory, every one is slowed by what it lacks.
std::vector<double> CorunSpeeds(absl::Span<const CorunMember> members, const Profiles& profiles,
                                int type = 0);

/// Speed of a job that has `share` of the memory it wants, by its curve; without one nothing is
/// slower.
double SpeedWithMemory(const JobProfile& profile, double share);

}  // namespace tide::sched

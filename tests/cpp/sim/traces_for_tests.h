// Small traces and jobs that several tests of the simulator replay.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "base/random.h"
#include "sim/replay.h"

namespace tide::sim {

inline Trace TraceOf(const std::vector<sched::JobView>& jobs) {
  Trace trace;
  trace.jobs = jobs;
  for (size_t i = 0; i < jobs.size(); ++i) trace.job_ids.push_back(std::to_string(i));
  return trace;
}

inline sched::JobView JobOf(double submit_s, int gpus, double duration_s) {
  sched::JobView job;
  job.submit_s = submit_s;
  job.gpus = gpus;
  job.duration_s = duration_s;
  return job;
}

/// Half of the jobs elastic, on 1 to twice their gangs; half with stages, memory and business of
/// their GPUs; half with deadlines; all tiers.
inline Trace RichTrace(Random& random, int gpus) {
  Trace trace;
  for (int i = 0; i < 6; ++i) {
    sched::JobProfile profile;
    for (int k = 1; k <= 2 * gpus; ++k) {
      profile.speed.push_back(k / (1 + 0.05 * (i + 1) * (k - 1)));
    }
    if (i % 2 == 0) {
      for (double& stage_s : profile.stage_s)
        stage_s = 0.01 * static_cast<double>(random.Below(10));
      profile.stage_s[2] += 0.01;
    }
    profile.busy = 0.2 + 0.8 * random.Unit();
    profile.memory_gib = 1 + 7 * random.Unit();
    profile.scratch_gib = 1 + 3 * random.Unit();
    profile.memory_speed = {0.3, 0.6, 0.8, 1};
    profile.type_speed = {1, 0.3 + 0.6 * random.Unit(), 0.1 + 0.4 * random.Unit()};
    trace.profiles.of.push_back(profile);
  }
  trace.profiles.gpu_memory_gib = 16;
  double submit_s = 0;
  const int jobs = 2 + static_cast<int>(random.Below(30));
  for (int i = 0; i < jobs; ++i) {
    submit_s += static_cast<double>(random.Below(60));
    sched::JobView job = JobOf(submit_s, std::min(1 << random.Below(4), gpus),
                               static_cast<double>(10 + random.Below(600)));
    job.profile = static_cast<int>(random.Below(7)) - 1;
    if (job.profile >= 0 && random.Below(2) == 0) {
      job.gpus_min = 1;
      job.gpus_max = std::min(2 * job.gpus, gpus);
    }
    job.user = static_cast<int>(random.Below(3));
    job.group = job.user;
    job.tier = static_cast<sched::JobTier>(random.Below(3));
    if (random.Below(2) == 0) job.deadline_s = submit_s + job.duration_s * (1 + 3 * random.Unit());
    trace.jobs.push_back(job);
    trace.job_ids.push_back(std::to_string(i));
  }
  return trace;
}

inline std::vector<std::string> PolicyNames() {
  std::vector<std::string> names;
  for (const sched::ClusterPolicyInfo& info : sched::ClusterPolicies()) names.push_back(info.name);
  return names;
}

inline std::string TestName(std::string policy) {
  std::replace(policy.begin(), policy.end(), '-', '_');
  return policy;
}

}  // namespace tide::sim

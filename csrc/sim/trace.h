// A trace of jobs from a CSV file: who asks for how many GPUs, when and for how long.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sched/cluster_policy.h"

namespace tide::sim {

struct Trace {
  std::string name;                  // of the file, without folder and ending
  std::vector<std::string> job_ids;  // as written; parallel to `jobs`
  std::vector<sched::JobView> jobs;  // in order of submission, all in the future
  sched::Profiles profiles;          // of the jobs' programs, where the file says something
};

/// Columns are found by name in the header: `job_id,submit_s,gpus,duration_s` must be there; `user`
/// or `vc`, `model`, `deadline_s` (0 or empty: none) and `tier` are used when they are; so are
/// `gpus_min` and `gpus_max` of elastic jobs, `weight` of their fair shares, and what
/// trace_profiles.h reads of their programs. Others are ignored. Rows are sorted by submission,
/// equal ones stay in order. Errors: InvalidArgument with line and column.
absl::StatusOr<Trace> ParseTrace(absl::string_view text, absl::string_view name);

/// Errors: NotFound, ResourceExhausted above 1 GiB, what ParseTrace says.
absl::StatusOr<Trace> ReadTrace(const std::string& path);

/// Makes each job that is not elastic so: it runs on 1 to `factor` times its gang with speeds by
/// Amdahl's law, `serial_share` of its work not speeding up; a job with a batch has the speeds of
/// that. An assumption, to be named with the results.
absl::Status AssumeElastic(Trace& trace, double serial_share, int factor);

/// `jobs` jobs drawn from a seed: Poisson arrivals, 90 % of one GPU, gangs up to 32, durations over
/// four decades, at `load` of a cluster of `gpus`. For measurements of speed, not for claims.
Trace DrawTrace(int jobs, int gpus, double load, uint64_t seed);

}  // namespace tide::sim

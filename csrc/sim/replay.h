// Runs a trace through a cluster policy in virtual time.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "sched/cluster_policy.h"
#include "sim/cluster_spec.h"
#include "sim/trace.h"

namespace tide::sim {

struct ReplayOptions {
  ClusterSpec cluster;
  /// Borrowed, may be null: measures how long each decision takes.
  Clock* decision_clock = nullptr;
  /// Borrowed, may be null: one line for each action, with its reason.
  std::string* decision_log = nullptr;
  /// Whether to remember who ran where and when; at most a hundred thousand spans.
  bool keep_spans = false;
  /// May be empty: asked every few hundred events; true ends the replay with Cancelled.
  std::function<bool()> interrupted;
};

/// A job on GPUs of a node, from one start, resize or stop to the next.
struct JobSpan {
  sched::JobIndex job;
  double from_s = 0, to_s = 0;
  int gpus = 0;
  int node = 0;
};

struct RefusedJob {
  sched::JobIndex job;
  std::string reason;
};

/// What became of the jobs; parallel to the trace's jobs where it is by job.
struct ReplayResult {
  std::vector<double> jct_s;  // of the jobs that were done, in order of submission
  std::vector<RefusedJob> refused;
  double makespan_s = 0;  // from time zero to the last completion
  int64_t preemptions = 0, evictions = 0, spread_starts = 0, resizes = 0, shared_starts = 0;
  int64_t events = 0;  // times at which something was decided
  int deadlines_met = 0, deadlines = 0;
  double gpu_seconds_used = 0, gpu_seconds_lost = 0;  // lost: repeated after a restart or a fault
  double gpu_seconds_lent = 0;                        // that lent nodes were there
  double wait_s = 0;                                  // sum over done jobs
  std::vector<std::pair<double, int>> usage;          // (time, GPUs in use) at each change, thinned
  double cost = 0;                                    // GPU-hours times what each costs
  std::vector<JobSpan> spans;                         // with keep_spans
  std::vector<int64_t> decide_nanos;                  // with a decision clock
};

/// Every job of the trace ends or is in `refused` with a reason: gangs larger than the cluster at
/// once, jobs that the policy declines, and jobs that it leaves waiting for ever. Errors: Internal
/// when the policy breaks a law (more GPUs than there are, a start of a job that does not wait, no
/// progress), InvalidArgument for a cluster that cannot be.
absl::StatusOr<ReplayResult> Replay(const Trace& trace,
                                    std::unique_ptr<sched::ClusterPolicy> policy,
                                    const ReplayOptions& options);

}  // namespace tide::sim

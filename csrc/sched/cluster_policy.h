// Which jobs of a cluster hold GPUs from now on: policies as values over views of cluster and jobs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/field_archive.h"
#include "base/ids.h"
#include "sched/job_profile.h"

namespace tide::sched {

using JobIndex = Id<struct JobIndexTag>;  // position among the job views; in order of submission

inline constexpr double kNever = std::numeric_limits<double>::infinity();

enum class JobState : uint8_t { kFuture, kPending, kRunning, kDone, kRefused };

/// Whose GPUs are safe: opportunistic jobs give way to all, guaranteed ones to nobody.
enum class JobTier : uint8_t { kOpportunistic = 0, kStandard = 1, kGuaranteed = 2 };

/// What a policy knows of one job. Times are seconds on the cluster's clock: traces carry whole
/// seconds, which a double holds exactly, and an event loop of millions of steps cannot afford
/// absl::Duration (docs/decisions/0010).
struct JobView {
  int gpus = 1;   // a gang: all of them or none
  int user = 0;   // whose job; equal names have equal numbers
  int group = 0;  // jobs of one user and model: they resemble each other
  JobTier tier = JobTier::kStandard;
  JobState state = JobState::kFuture;
  double submit_s = 0;
  double duration_s = 0;       // predicted service with its gang running
  double deadline_s = kNever;  // at which it must have ended
  double executed_s = 0;       // service had until since_s
  double since_s = 0;          // when the state or the rate changed last
  double rate = 1;             // service that a second of running gives now, as measured
  double weight = 1;           // how much more of a fair share it is worth
  int profile = -1;            // of ClusterInput::profiles; -1: only its gang is known
  int gpus_min = 0;            // an elastic job runs on any number of GPUs between these two;
  int gpus_max = 0;            // 0: on its gang alone
  int held = 0;                // GPUs it has; jobs that share them count them each
  int holding = -1;            // which GPUs: jobs that share them have equal numbers
  int type = -1;               // of those GPUs

  /// Service had until `now_s`, in seconds of its gang on the GPUs that durations are of.
  double ExecutedAt(double now_s) const {
    return state == JobState::kRunning ? executed_s + (now_s - since_s) * rate : executed_s;
  }
  double RemainingAt(double now_s) const { return duration_s - ExecutedAt(now_s); }
  bool elastic() const { return gpus_max > 0 && gpus_max > gpus_min; }
  int GpusMin() const { return gpus_max > 0 ? gpus_min : gpus; }
  int GpusMax() const { return gpus_max > 0 ? gpus_max : gpus; }
};

/// Only `gpus` is always there.
struct ClusterView {
  int gpus = 0;                           // that work now
  int gpus_per_node = 0;                  // 0: nodes do not matter
  absl::Span<const int> free_by_node;     // empty: nodes do not matter
  absl::Span<const int> nodes_of_jobs;    // nodes that each job is on; empty: they do not matter
  absl::Span<const int> gpus_by_type;     // that work now; empty: one type
  absl::Span<const double> cost_by_type;  // of a GPU-hour; empty: all the same
};

/// What happened since the last decision. A job that is evicted has lost its GPUs without the
/// policy's doing (a node failed) and is pending again.
enum class JobEventKind : uint8_t { kArrival, kCompletion, kEviction };
struct JobEvent {
  JobIndex job;
  JobEventKind kind = JobEventKind::kArrival;
};

/// kPace changes the pace of a job that runs, kResize the number of its GPUs without a stop.
enum class JobActionKind : uint8_t { kStart, kPreempt, kRefuse, kResize, kPace };
/// "start", "preempt", ...: what logs of decisions say, the daemon's and the simulator's.
const char* JobActionWord(JobActionKind kind);
struct JobAction {
  JobIndex job;
  JobActionKind kind = JobActionKind::kStart;
  const char* reason = "";  // a literal
  int gpus = 0;             // start, resize: how many; 0: its gang
  int type = -1;            // start: of GPUs; -1: whichever
  JobIndex beside = {};     // start: on the GPUs of this job, which runs or starts before it here
  double pace = 1;          // start, pace: share of the time of shared GPUs that it may use
  double batch = 0;         // start, resize: examples a step; 0: its own
};

/// What changes; preemptions hold before resizes to fewer, those before resizes to more, and these
/// before starts. A job that is not named stays as it is.
struct ClusterDecision {
  std::vector<JobAction> actions;
  double wake_s = kNever;  // decide again then, though nothing has happened
};

struct ClusterInput {
  const ClusterView& cluster;
  absl::Span<const JobView> jobs;     // all jobs ever seen; a policy looks up the ones it needs
  absl::Span<const JobEvent> events;  // completions and evictions first, then arrivals
  double now_s = 0;
  const Profiles* profiles = nullptr;  // null: nothing is known of any job
};

/// Speed with `gpus` over the speed with its gang, on one type of GPU; with a batch, goodput over
/// the throughput of its own batch on its gang.
double SpeedOf(const JobView& job, const Profiles* profiles, int gpus, double batch = 0);

/// What the state of a policy is saved with and loaded from.
struct PolicyArchive {
  FieldArchive& fields;
  /// Jobs that have not ended, or whose end the policy has not been told, ascending. Of the views
  /// of all others only the state is there after a load.
  absl::Span<const JobIndex> kept;

  /// A table by JobIndex, of which only the entries of kept jobs are ever read again.
  template <typename T>
  void PerJob(std::vector<T>& table) {
    const size_t most = kept.empty() ? 0 : static_cast<size_t>(kept.back().value()) + 1;
    size_t size = std::min(table.size(), most);
    fields(size);
    if (fields.reading()) table.assign(std::min(size, most), T{});
    for (const JobIndex job : kept) {
      if (static_cast<size_t>(job.value()) < size) fields(table[job.value()]);
    }
  }
};

/// A policy with its state as a value: no clock, no I/O, no globals, so the same inputs give the
/// same decisions in the daemon, in the simulator and after a replay. Work is bounded by what
/// happened, not by how many jobs wait. Not thread-safe.
class ClusterPolicy {
 public:
  virtual ~ClusterPolicy() = default;
  /// A copy that decides the same from here on.
  virtual std::unique_ptr<ClusterPolicy> Clone() const = 0;
  /// Never above the capacity, gangs all or nothing. `input.events` must be complete.
  virtual ClusterDecision Decide(const ClusterInput& input) = 0;
  /// Saves or loads all that later decisions depend on, and returns true; into a policy that was
  /// made with the same options. False: this policy's state cannot be saved, it has to be told
  /// everything again.
  virtual bool VisitState(PolicyArchive& /*archive*/) { return false; }
};

/// Tunables by policy; zero or empty means what was published.
struct ClusterPolicyOptions {
  uint64_t seed = 1;                   // of policies that draw
  std::vector<double> queue_limits_s;  // las: service that ends a queue; 3250, 7200
  double starvation_knob = 0;          // las: a wait this many times the service promotes; 0: off
  double round_s = 0;                  // policies of rounds: length of one
  double restart_cost_s = 0;           // what a change costs, where a policy counts it
  std::vector<double> quotas;          // philly: GPUs of each user or vc in order of appearance
  bool strict_rounds = false;          // gavel-*: GPUs that come free wait for the next round
  int profiler_gpus = 0;               // lucid: GPUs on which jobs are profiled first; 0: none
  double profiler_limit_s = 0;         // lucid: how long; 0: 200
};

struct ClusterPolicyInfo {
  const char* name;
  const char* summary;                   // the rule in one line
  const char* simulated_only = nullptr;  // why a coordinator cannot serve it
  bool resizes = false;                  // it chooses the sizes of elastic jobs
};

/// In the order in which they are documented.
std::vector<ClusterPolicyInfo> ClusterPolicies();

/// Errors: InvalidArgument with the accepted names, or for an option out of range.
absl::StatusOr<std::unique_ptr<ClusterPolicy>> MakeClusterPolicy(
    absl::string_view name, const ClusterPolicyOptions& options = {});

}  // namespace tide::sched

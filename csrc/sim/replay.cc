// The event loop: the next submission, completion, fault or wake-up, then one decision.
#include "sim/replay.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "sim/end_times.h"
#include "sim/fault_plan.h"
#include "sim/placement.h"

namespace tide::sim {
namespace {

using sched::ClusterDecision;
using sched::JobAction;
using sched::JobActionKind;
using sched::JobEvent;
using sched::JobEventKind;
using sched::JobIndex;
using sched::JobState;
using sched::JobView;
using sched::kNever;

// Decisions at one point in time, or back and forth, after which a policy counts as stuck.
constexpr int64_t kDecisionsWithoutProgressMax = 100'000;
constexpr int64_t kEventsPerQuestion = 256;  // whether to stop: a microsecond in a millisecond
constexpr size_t kUsagePointsMax = 4096;

class Loop {
 public:
  Loop(const Trace& trace, std::unique_ptr<sched::ClusterPolicy> policy,
       const ReplayOptions& options)
      : trace_(trace),
        options_(options),
        policy_(std::move(policy)),
        jobs_(trace.jobs),
        allocations_(jobs_.size()),
        first_start_s_(jobs_.size(), kNever),
        end_s_(jobs_.size(), kNever),
        ends_(jobs_.size()),
        nodes_(options.cluster.nodes, options.cluster.gpus_per_node),
        faults_(options.cluster.faults) {}

  absl::StatusOr<ReplayResult> Run() {
    while (Pending()) {
      const double time_s = NextTime();
      if (time_s == kNever) break;
      TIDE_RETURN_IF_ERROR(CheckProgress(time_s));
      now_s_ = time_s;
      events_.clear();
      TakeEnds();
      TakeFaults();
      TakeSubmissions();
      TIDE_RETURN_IF_ERROR(Decide());
    }
    RefuseTheForgotten();
    return Finish();
  }

 private:
  bool Pending() const { return next_submit_ < jobs_.size() || open_ > 0; }
  JobView& At(JobIndex job) { return jobs_[job.value()]; }

  double NextTime() {
    const double submit_s = next_submit_ < jobs_.size() ? jobs_[next_submit_].submit_s : kNever;
    return std::min({submit_s, ends_.NextTime(), wake_s_, faults_.NextTime()});
  }

  absl::Status CheckProgress(double time_s) {
    if (result_.events % kEventsPerQuestion == 0 && options_.interrupted &&
        options_.interrupted()) {
      return absl::CancelledError("the replay was interrupted");
    }
    if (time_s > furthest_s_) {
      furthest_s_ = time_s;
      decisions_without_progress_ = 0;
    }
    if (++decisions_without_progress_ <= kDecisionsWithoutProgressMax) return absl::OkStatus();
    return absl::InternalError(
        absl::StrFormat("the policy asked %d times to be woken without time going on at %.3f s",
                        kDecisionsWithoutProgressMax, time_s));
  }

  void TakeEnds() {
    while (ends_.NextTime() <= now_s_) {
      const JobIndex job = ends_.Pop();
      Stop(job);
      At(job).state = JobState::kDone;
      end_s_[job.value()] = now_s_;
      last_end_s_ = now_s_;
      --open_;
      events_.push_back({.job = job, .kind = JobEventKind::kCompletion});
    }
  }

  void TakeFaults() {
    while (faults_.NextTime() <= now_s_) {
      const NodeChange change = faults_.Pop();
      if (change.works) {
        nodes_.Repair(change.node);
        continue;
      }
      nodes_.Fail(change.node);
      for (size_t i = 0; i < next_submit_; ++i) {
        const auto on_node = [&](const NodeShare& share) { return share.node == change.node; };
        const Allocation& held = allocations_[i];
        if (std::any_of(held.begin(), held.end(), on_node)) Evict(JobIndex(static_cast<int>(i)));
      }
    }
  }

  void Evict(JobIndex job) {
    Stop(job);
    JobView& view = At(job);
    const double kept_s = options_.cluster.checkpoint_every_s > 0
                              ? std::floor(view.executed_s / options_.cluster.checkpoint_every_s) *
                                    options_.cluster.checkpoint_every_s
                              : view.executed_s;
    LoseWork(view, view.executed_s - kept_s);
    view.state = JobState::kPending;
    ++result_.evictions;
    events_.push_back({.job = job, .kind = JobEventKind::kEviction});
  }

  void LoseWork(JobView& view, double lost_s) {
    view.executed_s -= lost_s;
    result_.gpu_seconds_lost += lost_s * view.gpus;
  }

  void TakeSubmissions() {
    const int gpus = nodes_.nodes() * nodes_.gpus_per_node();
    for (; next_submit_ < jobs_.size() && jobs_[next_submit_].submit_s <= now_s_; ++next_submit_) {
      const JobIndex job(static_cast<int>(next_submit_));
      JobView& view = At(job);
      view.since_s = view.submit_s;
      if (view.gpus > gpus) {
        Refuse(job, absl::StrCat("asks for ", view.gpus, " GPUs at once; the cluster has ", gpus));
        continue;
      }
      view.state = JobState::kPending;
      ++open_;
      events_.push_back({.job = job, .kind = JobEventKind::kArrival});
    }
  }

  absl::Status Decide() {
    ++result_.events;
    const sched::ClusterView cluster{.gpus = nodes_.gpus_working()};
    const int64_t begin = Nanos();
    const ClusterDecision decision =
        policy_->Decide({.cluster = cluster, .jobs = jobs_, .events = events_, .now_s = now_s_});
    if (options_.decision_clock != nullptr) result_.decide_nanos.push_back(Nanos() - begin);
    for (const JobAction& action : decision.actions) {
      if (action.kind != JobActionKind::kStart) TIDE_RETURN_IF_ERROR(Withdraw(action));
    }
    for (const JobAction& action : decision.actions) {
      if (action.kind == JobActionKind::kStart) TIDE_RETURN_IF_ERROR(Start(action));
    }
    wake_s_ = decision.wake_s;
    NoteUsage();
    return absl::OkStatus();
  }

  int64_t Nanos() const {
    return options_.decision_clock == nullptr ? 0 : options_.decision_clock->MonotonicNanos();
  }

  absl::Status Withdraw(const JobAction& action) {
    JobView& view = At(action.job);
    Log(action);
    if (action.kind == JobActionKind::kRefuse) {
      if (view.state != JobState::kPending) return Broken(action, "refuses a job that runs");
      --open_;
      Refuse(action.job, action.reason);
      return absl::OkStatus();
    }
    if (view.state != JobState::kRunning) return Broken(action, "preempts a job that waits");
    Stop(action.job);
    view.state = JobState::kPending;
    ++result_.preemptions;
    return absl::OkStatus();
  }

  absl::Status Start(const JobAction& action) {
    JobView& view = At(action.job);
    Log(action);
    if (view.state != JobState::kPending) return Broken(action, "starts a job that does not wait");
    if (view.gpus > nodes_.free()) return Broken(action, "hands out more GPUs than there are");
    Allocation& held = allocations_[action.job.value()];
    held = nodes_.Take(view.gpus);
    if (nodes_.IsSpread(held)) ++result_.spread_starts;
    const bool again = first_start_s_[action.job.value()] != kNever;
    if (again) LoseWork(view, options_.cluster.restart_cost_s);
    if (!again) first_start_s_[action.job.value()] = now_s_;
    view.state = JobState::kRunning;
    view.since_s = now_s_;
    ends_.Set(action.job, now_s_ + (view.duration_s - view.executed_s));
    return absl::OkStatus();
  }

  // Takes the GPUs of a running job away; the caller says what it is then.
  void Stop(JobIndex job) {
    JobView& view = At(job);
    result_.gpu_seconds_used += (now_s_ - view.since_s) * view.gpus;
    view.executed_s = view.ExecutedAt(now_s_);
    view.since_s = now_s_;
    nodes_.Give(allocations_[job.value()]);
    allocations_[job.value()].clear();
    ends_.Clear(job);
  }

  void Refuse(JobIndex job, std::string reason) {
    At(job).state = JobState::kRefused;
    result_.refused.push_back({.job = job, .reason = std::move(reason)});
  }

  // Nothing will ever happen again, and jobs wait: the policy has lost them.
  void RefuseTheForgotten() {
    for (size_t i = 0; i < jobs_.size() && open_ > 0; ++i) {
      if (jobs_[i].state != JobState::kPending) continue;
      --open_;
      const bool too_few = jobs_[i].gpus > nodes_.gpus_working();
      Refuse(JobIndex(static_cast<int>(i)),
             too_few ? absl::StrCat("asks for ", jobs_[i].gpus, " GPUs; after the last fault ",
                                    nodes_.gpus_working(), " work")
                     : "the policy never started it");
    }
  }

  absl::Status Broken(const JobAction& action, absl::string_view what) const {
    return absl::InternalError(absl::StrFormat("the policy %s: job %s at %.3f s, %d GPUs free (%s)",
                                               what, trace_.job_ids[action.job.value()], now_s_,
                                               nodes_.free(), action.reason));
  }

  void Log(const JobAction& action) {
    if (options_.decision_log == nullptr) return;
    constexpr const char* kWords[] = {"start", "preempt", "refuse"};
    absl::StrAppendFormat(options_.decision_log, "%.3f %s %s: %s\n", now_s_,
                          kWords[static_cast<int>(action.kind)], trace_.job_ids[action.job.value()],
                          action.reason);
  }

  // Thins by halves: every second point goes when there are too many.
  void NoteUsage() {
    if (result_.events % usage_stride_ != 0) return;
    const int used = nodes_.gpus_working() - nodes_.free();
    result_.usage.emplace_back(now_s_, used);
    if (result_.usage.size() < kUsagePointsMax) return;
    for (size_t i = 0; 2 * i < result_.usage.size(); ++i) result_.usage[i] = result_.usage[2 * i];
    result_.usage.resize(kUsagePointsMax / 2);
    usage_stride_ *= 2;
  }

  ReplayResult Finish() {
    for (size_t i = 0; i < jobs_.size(); ++i) {
      const JobView& job = jobs_[i];
      if (job.deadline_s != kNever) ++result_.deadlines;
      if (job.state != JobState::kDone) continue;
      if (job.deadline_s != kNever && end_s_[i] <= job.deadline_s) ++result_.deadlines_met;
      result_.jct_s.push_back(end_s_[i] - job.submit_s);
      result_.wait_s += end_s_[i] - job.submit_s - job.duration_s;
    }
    result_.makespan_s = last_end_s_;
    return std::move(result_);
  }

  const Trace& trace_;
  const ReplayOptions& options_;
  std::unique_ptr<sched::ClusterPolicy> policy_;
  std::vector<JobView> jobs_;
  std::vector<Allocation> allocations_;
  std::vector<double> first_start_s_, end_s_;
  EndTimes ends_;
  Nodes nodes_;
  FaultPlan faults_;
  std::vector<JobEvent> events_;  // of this point in time
  ReplayResult result_;
  double now_s_ = 0, wake_s_ = kNever, last_end_s_ = 0, furthest_s_ = -1;
  int64_t decisions_without_progress_ = 0, usage_stride_ = 1;
  size_t next_submit_ = 0;
  size_t open_ = 0;  // jobs submitted and neither done nor refused
};

absl::Status CheckCluster(const ClusterSpec& cluster) {
  if (cluster.nodes < 1 || cluster.gpus_per_node < 1 ||
      int64_t{cluster.nodes} * cluster.gpus_per_node > (1 << 24)) {
    return absl::InvalidArgumentError(absl::StrCat("a cluster of ", cluster.nodes, " nodes with ",
                                                   cluster.gpus_per_node,
                                                   " GPUs; give at least one of each, at most "
                                                   "16777216 GPUs"));
  }
  for (const NodeFault& fault : cluster.faults) {
    if (fault.node < 0 || fault.node >= cluster.nodes || !(fault.at_s >= 0) || !(fault.for_s > 0)) {
      return absl::InvalidArgumentError(
          absl::StrCat("a fault of node ", fault.node, " at ", fault.at_s, " s for ", fault.for_s,
                       " s; nodes are 0 to ", cluster.nodes - 1, ", times positive"));
    }
  }
  if (!(cluster.restart_cost_s >= 0) || !(cluster.checkpoint_every_s >= 0)) {
    return absl::InvalidArgumentError("restart cost and checkpoint interval are seconds from 0");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ReplayResult> Replay(const Trace& trace,
                                    std::unique_ptr<sched::ClusterPolicy> policy,
                                    const ReplayOptions& options) {
  TIDE_RETURN_IF_ERROR(CheckCluster(options.cluster));
  return Loop(trace, std::move(policy), options).Run();
}

}  // namespace tide::sim

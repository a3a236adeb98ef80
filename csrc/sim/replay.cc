// The event loop: the next submission, completion, fault or wake-up, then one decision.
#include "sim/replay.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "sim/end_times.h"
#include "sim/fault_plan.h"
#include "sim/holdings.h"
#include "sim/loans.h"
#include "sim/usage_curve.h"

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
constexpr size_t kSpansMax = 100'000;
constexpr double kSecondsAnHour = 3600;

// What the trace says of programs and the cluster of its GPUs.
sched::Profiles ProfilesFor(const Trace& trace, const ClusterSpec& cluster) {
  sched::Profiles profiles = trace.profiles;
  if (cluster.gpu_memory_gib > 0) profiles.gpu_memory_gib = cluster.gpu_memory_gib;
  std::copy(cluster.share_cost.begin(), cluster.share_cost.end(), profiles.share_cost.begin());
  return profiles;
}

class Loop {
 public:
  Loop(const Trace& trace, std::unique_ptr<sched::ClusterPolicy> policy,
       const ReplayOptions& options)
      : trace_(trace),
        options_(options),
        profiles_(ProfilesFor(trace, options.cluster)),
        policy_(std::move(policy)),
        jobs_(trace.jobs),
        first_start_s_(jobs_.size(), kNever),
        end_s_(jobs_.size(), kNever),
        span_from_s_(jobs_.size(), 0),
        batch_(jobs_.size(), 0),
        ends_(jobs_.size()),
        holdings_(options.cluster, profiles_, jobs_.size(),
                  dynamic_cast<const sched::NodeTuner*>(policy_.get())),
        costs_(options.cluster.Costs()),
        faults_(options.cluster.faults),
        loans_(options.cluster) {}

  absl::StatusOr<ReplayResult> Run() {
    while (Pending()) {
      const double time_s = NextTime();
      if (time_s == kNever) break;
      TIDE_RETURN_IF_ERROR(CheckProgress(time_s));
      BookUse(time_s);
      now_s_ = time_s;
      events_.clear();
      TakeEnds();
      TakeFaults();
      TakeLoans();
      TakeSubmissions();
      TIDE_RETURN_IF_ERROR(Decide());
      UpdateRates();
    }
    RefuseTheForgotten();
    return Finish();
  }

 private:
  bool Pending() const { return next_submit_ < jobs_.size() || open_ > 0; }
  JobView& At(JobIndex job) { return jobs_[job.value()]; }

  double NextTime() {
    const double submit_s = next_submit_ < jobs_.size() ? jobs_[next_submit_].submit_s : kNever;
    return std::min({submit_s, ends_.NextTime(), wake_s_, faults_.NextTime(), loans_.NextTime()});
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
      switch (change.kind) {
        case FaultKind::kLink:
          holdings_.SetLink(change.node, change.works);
          break;
        case FaultKind::kSlow:
          holdings_.SetSpeed(change.node, change.works ? 1 : change.speed);
          break;
        case FaultKind::kNode:
          if (change.works) {
            holdings_.Repair(change.node);
            break;
          }
          holdings_.Fail(change.node);
          for (const int job : holdings_.JobsOn(change.node)) {
            Evict(JobIndex(job), /*loses=*/true);
          }
      }
    }
  }

  void TakeLoans() {
    while (loans_.NextTime() <= now_s_) {
      const Loans::Change change = loans_.Pop(*policy_, holdings_, jobs_, profiles_);
      for (const int node : change.come) holdings_.Repair(node);
      for (const int node : change.go) {
        for (const int job : holdings_.JobsOn(node)) Vacate(JobIndex(job), node, change.shrinks);
        holdings_.Fail(node);
      }
      lent_ += static_cast<int>(change.come.size()) - static_cast<int>(change.go.size());
    }
  }

  // It is told in time, so no work is lost but what a restart or a resize costs.
  void Vacate(JobIndex job, int node, bool shrinks) {
    JobView& view = At(job);
    int left = view.held;
    for (const NodeShare& share : holdings_.NodesOf(job.value())) {
      if (share.node == node) left -= share.gpus;
    }
    if (!shrinks || !view.elastic() || left < view.GpusMin() || !Runs(view, left)) {
      return Evict(job, /*loses=*/false);
    }
    EndSpan(job);
    SettleService(view);
    holdings_.Leave(job.value(), node);
    ++result_.resizes;
    StandStill(job);
  }

  void Evict(JobIndex job, bool loses) {
    Stop(job);
    JobView& view = At(job);
    const double kept_s = loses && options_.cluster.checkpoint_every_s > 0
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
    const int gpus = holdings_.gpus();
    for (; next_submit_ < jobs_.size() && jobs_[next_submit_].submit_s <= now_s_; ++next_submit_) {
      const JobIndex job(static_cast<int>(next_submit_));
      JobView& view = At(job);
      view.since_s = view.submit_s;
      if (view.GpusMin() > gpus) {
        Refuse(job,
               absl::StrCat("asks for ", view.GpusMin(), " GPUs at once; the cluster has ", gpus));
        continue;
      }
      view.state = JobState::kPending;
      ++open_;
      events_.push_back({.job = job, .kind = JobEventKind::kArrival});
    }
  }

  absl::Status Decide() {
    ++result_.events;
    const int64_t begin = Nanos();
    const ClusterDecision decision = policy_->Decide({.cluster = View(),
                                                      .jobs = jobs_,
                                                      .events = events_,
                                                      .now_s = now_s_,
                                                      .profiles = &profiles_});
    if (options_.decision_clock != nullptr) result_.decide_nanos.push_back(Nanos() - begin);
    TIDE_RETURN_IF_ERROR(Carry(decision));
    wake_s_ = decision.wake_s;
    usage_.Note(result_.events, now_s_, holdings_.gpus_working() - holdings_.free());
    return absl::OkStatus();
  }

  sched::ClusterView View() const {
    sched::ClusterView view{.gpus = holdings_.gpus_working()};
    if (options_.cluster.Nodes() > 1 || !options_.cluster.loans.empty()) {
      view.gpus_per_node = options_.cluster.gpus_per_node;
      view.free_by_node = holdings_.free_by_node();
      view.nodes_of_jobs = holdings_.nodes_of_jobs();
    }
    if (options_.cluster.types.size() > 1) {
      view.gpus_by_type = holdings_.by_type();
      view.cost_by_type = costs_;
    }
    return view;
  }

  // What takes GPUs away before what hands them out.
  absl::Status Carry(const ClusterDecision& decision) {
    bool resizes = false;
    for (const JobAction& action : decision.actions) {
      resizes |= action.kind == JobActionKind::kResize;
      if (action.kind == JobActionKind::kPreempt || action.kind == JobActionKind::kRefuse) {
        TIDE_RETURN_IF_ERROR(Withdraw(action));
      }
    }
    for (const bool grows : {false, true}) {
      for (const JobAction& action : decision.actions) {
        if (!resizes) break;
        if (action.kind != JobActionKind::kResize) continue;
        if ((action.gpus > At(action.job).held) != grows) continue;
        TIDE_RETURN_IF_ERROR(Resize(action));
      }
    }
    for (const JobAction& action : decision.actions) {
      if (action.kind == JobActionKind::kStart) TIDE_RETURN_IF_ERROR(Start(action));
      if (action.kind == JobActionKind::kPace) TIDE_RETURN_IF_ERROR(Pace(action));
    }
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
    const int job = action.job.value();
    const int gpus = action.gpus > 0 ? action.gpus : view.gpus;
    if (!Runs(view, gpus)) return Broken(action, "starts a job on a number of GPUs it cannot use");
    if (!Fits(view, action.batch)) return Broken(action, "starts a job with a batch not its own");
    if (action.beside.value() >= 0) {
      const int host = action.beside.value();
      if (holdings_.Held(host) != gpus || !holdings_.Share(job, view.profile, host, action.pace)) {
        return Broken(action, "starts a job beside one that does not hold the GPUs for it");
      }
      ++result_.shared_starts;
    } else if (!holdings_.Start(job, view.profile, gpus, action.type)) {
      return Broken(action, "hands out more GPUs than there are");
    }
    if (action.beside.value() < 0 && holdings_.IsSpread(job)) ++result_.spread_starts;
    const bool again = first_start_s_[job] != kNever;
    if (again) LoseWork(view, options_.cluster.restart_cost_s);
    if (!again) first_start_s_[job] = now_s_;
    view.state = JobState::kRunning;
    view.since_s = now_s_;
    view.rate = 0;  // until UpdateRates
    batch_[job] = action.batch;
    NoteHolding(action.job);
    return absl::OkStatus();
  }

  bool Runs(const JobView& view, int gpus) const {
    if (gpus == view.gpus) return true;
    return gpus >= view.GpusMin() && gpus <= view.GpusMax() &&
           sched::SpeedOf(view, &profiles_, gpus) > 0;
  }

  bool Fits(const JobView& view, double batch) const {
    if (batch == 0) return true;
    if (view.profile < 0) return false;
    const sched::BatchModel& model = profiles_.of[view.profile].batch;
    return model.known() && batch >= model.own && batch <= std::max(model.own, model.most);
  }

  absl::Status Resize(const JobAction& action) {
    JobView& view = At(action.job);
    Log(action);
    if (view.state != JobState::kRunning) return Broken(action, "resizes a job that waits");
    if (!Runs(view, action.gpus)) return Broken(action, "gives a job GPUs it cannot use");
    if (!Fits(view, action.batch)) return Broken(action, "gives a job a batch not its own");
    EndSpan(action.job);
    SettleService(view);
    if (!holdings_.Resize(action.job.value(), action.gpus)) {
      return Broken(action, "hands out more GPUs than there are");
    }
    ++result_.resizes;
    batch_[action.job.value()] = action.batch;
    StandStill(action.job);
    return absl::OkStatus();
  }

  // While its GPUs change: so much of what it will do is taken off before.
  void StandStill(JobIndex job) {
    At(job).executed_s -= options_.cluster.resize_cost_s * RateOf(job);
    result_.gpu_seconds_lost += options_.cluster.resize_cost_s * holdings_.Held(job.value());
    NoteHolding(job);
  }

  absl::Status Pace(const JobAction& action) {
    Log(action);
    if (At(action.job).state != JobState::kRunning) return Broken(action, "paces a job that waits");
    if (!(action.pace > 0 && action.pace <= 1)) return Broken(action, "gives a pace not in (0, 1]");
    holdings_.SetPace(action.job.value(), action.pace);
    return absl::OkStatus();
  }

  void NoteHolding(JobIndex job) {
    JobView& view = At(job);
    view.held = holdings_.Held(job.value());
    view.holding = holdings_.HoldingOf(job.value());
    view.type = holdings_.TypeOf(job.value());
    span_from_s_[job.value()] = now_s_;
  }

  double RateOf(JobIndex job) const {
    const JobView& view = jobs_[job.value()];
    const int held = holdings_.Held(job.value());
    return holdings_.RateOf(job.value(),
                            sched::SpeedOf(view, &profiles_, held, batch_[job.value()]));
  }

  // GPUs that are shared count once.
  void BookUse(double time_s) {
    result_.gpu_seconds_lent += lent_ * options_.cluster.gpus_per_node * (time_s - now_s_);
    for (size_t type = 0; type < costs_.size(); ++type) {
      const double used_s = holdings_.UsedOf(static_cast<int>(type)) * (time_s - now_s_);
      result_.gpu_seconds_used += used_s;
      result_.cost += costs_[type] * used_s / kSecondsAnHour;
    }
  }

  // Books service at the old rate.
  void SettleService(JobView& view) {
    view.executed_s = view.ExecutedAt(now_s_);
    view.since_s = now_s_;
  }

  // Who shares changes its neighbours' rates, a fault those on its node.
  void UpdateRates() {
    for (const int index : holdings_.touched()) {
      const JobIndex job(index);
      JobView& view = At(job);
      if (view.state != JobState::kRunning) continue;
      const double rate = RateOf(job);
      if (view.since_s != now_s_) SettleService(view);
      view.rate = rate;
      if (rate > 0) {
        ends_.Set(job, now_s_ + (view.duration_s - view.executed_s) / rate);
      } else {
        ends_.Clear(job);
      }
    }
    holdings_.ClearTouched();
  }

  // Takes the GPUs of a running job away; the caller says what it is then.
  void Stop(JobIndex job) {
    JobView& view = At(job);
    EndSpan(job);
    SettleService(view);
    holdings_.Release(job.value());
    view.held = 0;
    view.holding = view.type = -1;
    batch_[job.value()] = 0;
    ends_.Clear(job);
  }

  void EndSpan(JobIndex job) {
    if (!options_.keep_spans) return;
    const double from_s = span_from_s_[job.value()];
    for (const NodeShare& share : holdings_.NodesOf(job.value())) {
      if (result_.spans.size() >= kSpansMax) return;
      result_.spans.push_back(
          {.job = job, .from_s = from_s, .to_s = now_s_, .gpus = share.gpus, .node = share.node});
    }
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
      const bool too_few = jobs_[i].GpusMin() > holdings_.gpus_working();
      Refuse(JobIndex(static_cast<int>(i)),
             too_few ? absl::StrCat("asks for ", jobs_[i].GpusMin(),
                                    " GPUs; after the last fault or loan ",
                                    holdings_.gpus_working(), " work")
                     : "the policy never started it");
    }
  }

  absl::Status Broken(const JobAction& action, absl::string_view what) const {
    return absl::InternalError(absl::StrFormat("the policy %s: job %s at %.3f s, %d GPUs free (%s)",
                                               what, trace_.job_ids[action.job.value()], now_s_,
                                               holdings_.free(), action.reason));
  }

  void Log(const JobAction& action) {
    if (options_.decision_log == nullptr) return;
    absl::StrAppendFormat(options_.decision_log, "%.3f %s %s: %s\n", now_s_,
                          sched::JobActionWord(action.kind), trace_.job_ids[action.job.value()],
                          action.reason);
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
    result_.usage = usage_.Take();
    return std::move(result_);
  }

  const Trace& trace_;
  const ReplayOptions& options_;
  const sched::Profiles profiles_;
  std::unique_ptr<sched::ClusterPolicy> policy_;
  std::vector<JobView> jobs_;
  std::vector<double> first_start_s_, end_s_, span_from_s_;
  std::vector<double> batch_;  // examples a step, as it runs; 0: its own
  EndTimes ends_;
  Holdings holdings_;
  std::vector<double> costs_;  // of a GPU-hour by type
  FaultPlan faults_;
  Loans loans_;
  int lent_ = 0;                  // nodes
  std::vector<JobEvent> events_;  // of this point in time
  ReplayResult result_;
  double now_s_ = 0, wake_s_ = kNever, last_end_s_ = 0, furthest_s_ = -1;
  int64_t decisions_without_progress_ = 0;
  UsageCurve usage_;
  size_t next_submit_ = 0;
  size_t open_ = 0;  // jobs submitted and neither done nor refused
};

}  // namespace

absl::StatusOr<ReplayResult> Replay(const Trace& trace,
                                    std::unique_ptr<sched::ClusterPolicy> policy,
                                    const ReplayOptions& options) {
  TIDE_RETURN_IF_ERROR(CheckCluster(options.cluster));
  return Loop(trace, std::move(policy), options).Run();
}

}  // namespace tide::sim

// One decision of the cluster: the gate, the policy, the filter after it, and what is carried out.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "coordinator/cluster_engine.h"

namespace tide::coordinator {

using sched::ClusterDecision;
using sched::JobAction;
using sched::JobActionKind;
using sched::JobEventKind;
using sched::JobState;
using sched::JobView;
using sched::kNever;

namespace {

constexpr int kRoundsMax = 1000;  // withdrawn jobs that come up in one decision

// A node that a running job has left altogether is told so with the next change.
void Remember(ClusterJob& job, NodeIndex node) {
  for (const DeviceShare& share : job.placement_before) {
    if (share.node == node) return;
  }
  job.placement_before.push_back({.node = node, .devices = 0});
}

bool SameNodes(const Placement& now, const Placement& before) {
  const auto in = [](const Placement& placement, const DeviceShare& share) {
    return std::find(placement.begin(), placement.end(), share) != placement.end();
  };
  return std::all_of(now.begin(), now.end(),
                     [&](const auto& share) { return in(before, share); }) &&
         std::all_of(before.begin(), before.end(),
                     [&](const auto& share) { return share.devices == 0 || in(now, share); });
}

}  // namespace

sched::ClusterInput ClusterEngine::PolicyInput(const sched::ClusterView& cluster) {
  return {
      .cluster = cluster, .jobs = views_, .events = {}, .now_s = now_s_, .profiles = &profiles_};
}

std::vector<ClusterChange> ClusterEngine::Decide() {
  EndLateMoves();
  FitCapacity();
  std::vector<ClusterChange> changes = std::exchange(untold_, {});
  EmptyNodes(changes);
  for (int round = 0; round < kRoundsMax && DecideOnce(changes); ++round) {
  }
  Grow(changes);
  dirty_ = !ends_.empty();
  return changes;
}

// True when the policy has to be asked again at once.
bool ClusterEngine::DecideOnce(std::vector<ClusterChange>& changes) {
  for (const JobIndex index : gate_.Release(views_, capacity())) {
    jobs_[index.value()].at_gate = false;
    jobs_[index.value()].reason = absl::StrCat("it waits for its turn under ", options_.policy);
    arrivals_.push_back({.job = index, .kind = JobEventKind::kArrival});
  }
  std::vector<sched::JobEvent> events = ends_;
  events.insert(events.end(), evictions_.begin(), evictions_.end());
  events.insert(events.end(), arrivals_.begin(), arrivals_.end());
  const sched::ClusterView cluster = PolicyView();
  sched::ClusterInput input = PolicyInput(cluster);
  input.events = events;
  // Only who has started less than that ago may be preempted too soon.
  const bool filtered = options_.min_run_s > 0 && started_s_ + options_.min_run_s > now_s_;
  std::unique_ptr<sched::ClusterPolicy> before = filtered ? policy_->Clone() : nullptr;
  const ClusterDecision decision = policy_->Decide(input);
  if (filtered) {
    if (auto put_off = TooSoon(decision)) {
      // As if it had not been asked: what it was told now it will be told again.
      policy_ = std::move(before);
      if (jobs_[put_off->job.value()].reason != put_off->reason) {
        jobs_[put_off->job.value()].reason = put_off->reason;
        changes.push_back(*std::move(put_off));
      }
      return false;
    }
  }
  ends_.clear();
  evictions_.clear();
  arrivals_.clear();
  wake_s_ = decision.wake_s;
  Carry(decision, changes);
  return !ends_.empty();
}

// The preemption that comes too soon after the job's start, with the time until which all is put
// off.
std::optional<ClusterChange> ClusterEngine::TooSoon(const ClusterDecision& decision) {
  std::optional<ClusterChange> found;
  for (const JobAction& action : decision.actions) {
    const JobView& view = views_[action.job.value()];
    if (action.kind != JobActionKind::kPreempt || view.state != JobState::kRunning) continue;
    const double until_s = view.since_s + options_.min_run_s;
    if (until_s <= now_s_ || (found && until_s >= wake_s_)) continue;
    wake_s_ = until_s;
    found = ClusterChange{
        .job = action.job,
        .kind = ChangeKind::kPutOff,
        .reason = absl::StrFormat("preempting it was put off: it started at %.0f s and runs for at "
                                  "least %.0f s",
                                  view.since_s, options_.min_run_s)};
  }
  return found;
}

void ClusterEngine::Carry(const ClusterDecision& decision, std::vector<ClusterChange>& changes) {
  const std::set<JobIndex> moved = MoveAsDecided(decision, changes);
  for (const JobAction& action : decision.actions) {
    if (moved.contains(action.job)) continue;
    if (action.kind == JobActionKind::kPreempt || action.kind == JobActionKind::kRefuse)
      Withdraw(action, changes);
  }
  for (const bool grows : {false, true}) {
    for (const JobAction& action : decision.actions) {
      if (action.kind != JobActionKind::kResize) continue;
      if ((action.gpus > views_[action.job.value()].held) == grows) Resize(action, changes);
    }
  }
  for (const JobAction& action : decision.actions) {
    if (action.kind == JobActionKind::kStart && !moved.contains(action.job)) Start(action, changes);
    if (action.kind == JobActionKind::kPace) Pace(action, changes);
  }
}

void ClusterEngine::LogAction(const JobAction& action) {
  absl::StrAppendFormat(&log_, "%.3f %s %s: %s\n", now_s_, sched::JobActionWord(action.kind),
                        jobs_[action.job.value()].spec.key, action.reason);
}

void ClusterEngine::Withdraw(const JobAction& action, std::vector<ClusterChange>& changes) {
  const JobIndex index = action.job;
  JobView& view = views_[index.value()];
  const bool refuse = action.kind == JobActionKind::kRefuse;
  if (view.state != (refuse ? JobState::kPending : JobState::kRunning)) return;
  LogAction(action);
  jobs_[index.value()].reason = action.reason;
  if (refuse) {
    Close(index, JobState::kRefused);
  } else {
    Stop(index);
    view.state = JobState::kPending;
  }
  changes.push_back({.job = index,
                     .kind = refuse ? ChangeKind::kRefuse : ChangeKind::kPreempt,
                     .reason = action.reason});
}

void ClusterEngine::Start(const JobAction& action, std::vector<ClusterChange>& changes) {
  const JobIndex index = action.job;
  ClusterJob& job = jobs_[index.value()];
  JobView& view = views_[index.value()];
  if (view.state != JobState::kPending) return;
  if (job.withdrawn) {
    Close(index, JobState::kDone);
    ends_.push_back({.job = index, .kind = JobEventKind::kCompletion});
    return;
  }
  if (action.beside.value() >= 0) return StartBeside(action, changes);
  const int gpus = action.gpus > 0 ? action.gpus : view.gpus;
  MakeRoom(gpus, changes);
  if (gpus > devices_.free()) {
    return PutBack(index,
                   absl::StrCat("starting it was not carried out: it asks for ", gpus, " devices, ",
                                devices_.free(), " are free"),
                   changes);
  }
  LogAction(action);
  job.placement = devices_.Take(gpus, job.placement_before);
  job.pace = action.pace;
  running_held_ += gpus;
  Started(index, gpus, action.reason, changes);
  Enter(index, NewHolding(index));
}

// What it has beyond what the policy gave it is not the policy's.
void ClusterEngine::Started(JobIndex index, int devices, std::string reason,
                            std::vector<ClusterChange>& changes) {
  ClusterJob& job = jobs_[index.value()];
  JobView& view = views_[index.value()];
  job.reason = std::move(reason);
  job.away = job.first_start_s != kNever && !SameNodes(job.placement, job.placement_before);
  job.resized_s = now_s_;
  if (job.first_start_s == kNever) job.first_start_s = now_s_;
  ++job.revision;
  ++running_;
  started_s_ = now_s_;
  view.state = JobState::kRunning;
  view.held = devices;
  view.since_s = now_s_;
  view.rate = 0;  // until it has entered
  gate_.Use(view.user, devices, now_s_);
  changes.push_back({.job = index, .kind = ChangeKind::kStart, .reason = job.reason});
}

// Devices beyond their gangs come back from elastic jobs, one at a time from who has most.
void ClusterEngine::MakeRoom(int devices, std::vector<ClusterChange>& changes) {
  std::set<JobIndex> shrunk;
  while (devices_.free() < devices) {
    const JobIndex most = placed_.MostExtra();
    if (most.value() < 0) break;
    ShrinkOne(most, jobs_[most.value()].placement.back().node);
    shrunk.insert(most);
  }
  SayShrunk(shrunk, changes);
}

void ClusterEngine::ShrinkOne(JobIndex index, NodeIndex node) {
  ClusterJob& job = jobs_[index.value()];
  const size_t nodes = job.placement.size();
  placed_.Remove(Placed(index));
  devices_.RemoveOne(job.placement, node);
  placed_.Add(Placed(index));
  if (job.placement.size() < nodes) Remember(job, node);
  gate_.Use(views_[index.value()].user, -1, now_s_);
}

void ClusterEngine::SayShrunk(const std::set<JobIndex>& shrunk,
                              std::vector<ClusterChange>& changes) {
  for (const JobIndex index : shrunk) {
    ClusterJob& job = jobs_[index.value()];
    job.reason = absl::StrCat("others start: it goes on with ", job.devices(), " devices");
    Resized(index, changes);
  }
}

// What nobody uses goes to elastic jobs, one at a time to who has fewest for its gang; not more
// often than the filter allows.
void ClusterEngine::Grow(std::vector<ClusterChange>& changes) {
  const int kept = capacity().devices - gate_.Open(capacity());
  std::set<JobIndex> grown;
  while (devices_.free() > kept) {
    const auto may_grow = [&](const std::pair<double, JobIndex>& entry) {
      const double from_s = jobs_[entry.second.value()].resized_s + options_.min_run_s;
      return options_.min_run_s == 0 || from_s <= now_s_ || grown.contains(entry.second);
    };
    const auto& growable = placed_.growable();
    const auto least = std::find_if(growable.begin(), growable.end(), may_grow);
    if (least == growable.end()) break;
    const JobIndex index = least->second;
    GrowBy(index, 1);
    grown.insert(index);
  }
  for (const JobIndex index : grown) {
    ClusterJob& job = jobs_[index.value()];
    job.reason = absl::StrCat("devices are idle: it goes on with ", job.devices());
    Resized(index, changes);
  }
}

}  // namespace tide::coordinator

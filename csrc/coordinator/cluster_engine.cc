// Inputs of the cluster: submissions, ends, nodes, reservations; and what follows without a policy.
#include "coordinator/cluster_engine.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace tide::coordinator {

using sched::JobEventKind;
using sched::JobState;
using sched::JobView;
using sched::kNever;

void ClusterJob::Replace(Placement now) {
  Placement before = std::exchange(placement, std::move(now));
  for (const DeviceShare& share : placement_before) {
    const auto same = [&](const DeviceShare& other) { return other.node == share.node; };
    if (std::none_of(before.begin(), before.end(), same))
      before.push_back({.node = share.node, .devices = 0});
  }
  placement_before = std::move(before);
}

ClusterEngine::ClusterEngine(const ClusterOptions& options,
                             std::unique_ptr<sched::ClusterPolicy> policy)
    : options_(options), policy_(std::move(policy)), gate_(options) {
  FieldArchive nothing;
  sched::PolicyArchive probe{.fields = nothing, .kept = {}};
  has_snapshot_ = policy_->VisitState(probe);
  for (const sched::ClusterPolicyInfo& info : sched::ClusterPolicies())
    policy_resizes_ |= info.resizes && options.policy == info.name;
}

absl::StatusOr<std::unique_ptr<ClusterEngine>> ClusterEngine::Make(const ClusterOptions& options) {
  for (const sched::ClusterPolicyInfo& info : sched::ClusterPolicies()) {
    if (info.simulated_only == nullptr || options.policy != info.name) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("a coordinator cannot serve the policy ", info.name, ": ", info.simulated_only,
                     "; `tide simulate` can, or give another --policy"));
  }
  TIDE_ASSIGN_OR_RETURN(auto policy,
                        sched::MakeClusterPolicy(options.policy, options.policy_options));
  return MakeWith(options, std::move(policy));
}

absl::StatusOr<std::unique_ptr<ClusterEngine>> ClusterEngine::MakeWith(
    const ClusterOptions& options, std::unique_ptr<sched::ClusterPolicy> policy) {
  if (!(options.min_run_s >= 0) || !(options.half_life_s > 0)) {
    return absl::InvalidArgumentError("the minimum run time is from 0 s, the half-life above 0 s");
  }
  if (!(options.spread_speed > 0) || options.spread_speed > 1) {
    return absl::InvalidArgumentError(
        "the speed of a gang on more nodes than it needs is above 0 and at most 1");
  }
  return std::unique_ptr<ClusterEngine>(new ClusterEngine(options, std::move(policy)));
}

double ClusterEngine::wake_s() const {
  const double late_s = moving_.empty() ? kNever : moving_.begin()->first + kMoveLongestS;
  return std::min({wake_s_, gate_.NextChange(now_s_), late_s});
}

JobIndex ClusterEngine::Find(const std::string& key) const {
  const auto found = by_key_.find(key);
  return found == by_key_.end() ? JobIndex() : found->second;
}

absl::Status ClusterEngine::Check(const ClusterInput& input) const {
  if (!(input.now_s >= now_s_) || input.now_s == kNever) {
    return absl::InvalidArgumentError(absl::StrCat("the cluster's clock stands at ", now_s_,
                                                   " s; it does not go to ", input.now_s));
  }
  const JobSpec& spec = input.spec;
  const Reservation& reservation = input.reservation;
  switch (input.kind) {
    case ClusterInputKind::kSubmit:
      if (spec.key.empty() || spec.key.size() > 200)
        return absl::InvalidArgumentError("the key of a job has 1 to 200 bytes");
      if (spec.devices < 1 || (spec.devices_max != 0 && spec.devices_max < spec.devices))
        return absl::InvalidArgumentError(
            "a job asks for at least one device, and for no less "
            "at most than at least");
      if (!(spec.estimate_s >= 0) || spec.estimate_s == kNever || !(spec.deadline_s >= 0))
        return absl::InvalidArgumentError("estimate and deadline are seconds from 0");
      if (spec.movable && spec.devices_max != 0) {
        return absl::InvalidArgumentError(
            "a movable job has a fixed gang: an elastic one has no checkpoint that a signal asks "
            "for; give it no devices_max");
      }
      if (by_key_.contains(spec.key))
        return absl::AlreadyExistsError(absl::StrCat("a job ", spec.key, " is open"));
      if (open_.size() >= kClusterJobsMax) {
        return absl::ResourceExhaustedError(
            absl::StrCat(open_.size(), " jobs are open; end some before more are submitted"));
      }
      return absl::OkStatus();
    case ClusterInputKind::kFinish:
      return by_key_.contains(spec.key)
                 ? absl::OkStatus()
                 : absl::NotFoundError(absl::StrCat("no open job has the key ", spec.key));
    case ClusterInputKind::kNode:
      if (input.node.empty() || input.node.size() > 100 || input.devices < 1 ||
          input.devices > kNodeDevicesMax) {
        return absl::InvalidArgumentError(absl::StrCat(
            "a node has a name of at most 100 bytes and 1 to ", kNodeDevicesMax, " devices"));
      }
      if (devices_.Find(input.node) == nullptr && devices_.nodes().size() >= kClusterNodesMax)
        return absl::ResourceExhaustedError(absl::StrCat("there are ", kClusterNodesMax, " nodes"));
      return absl::OkStatus();
    case ClusterInputKind::kReserve:
      if (reservation.name.empty() || reservation.devices < 0 ||
          !(reservation.to_s > reservation.from_s) || gate_.reservations().size() > 1000)
        return absl::InvalidArgumentError(
            "a reservation has a name, devices and an end after its begin; there are at most 1000");
      return absl::OkStatus();
    case ClusterInputKind::kMove:
      return CheckMove(input);
    case ClusterInputKind::kDrain:
      return CheckDrain(input);
    case ClusterInputKind::kDecide:
      break;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ClusterChange>> ClusterEngine::Apply(const ClusterInput& input) {
  TIDE_RETURN_IF_ERROR(Check(input));
  now_s_ = input.now_s;
  dirty_ = true;
  switch (input.kind) {
    case ClusterInputKind::kSubmit:
      Submit(input.spec);
      break;
    case ClusterInputKind::kFinish:
      Finish(input.spec.key);
      break;
    case ClusterInputKind::kNode:
      SetNode(input);
      break;
    case ClusterInputKind::kReserve:
      gate_.Reserve(input.reservation);
      break;
    case ClusterInputKind::kMove:
      Move(input);
      break;
    case ClusterInputKind::kDrain:
      Drain(input);
      break;
    case ClusterInputKind::kDecide:
      return Decide();
  }
  return std::vector<ClusterChange>();
}

JobIndex ClusterEngine::Submit(const JobSpec& spec) {
  const JobIndex index(static_cast<int>(jobs_.size()));
  JobView view;
  view.gpus = spec.devices;
  view.user = gate_.UserOf(spec.user);
  const std::string group = absl::StrCat(spec.user, "\n", spec.group, "\n", spec.devices);
  view.group = groups_.try_emplace(group, static_cast<int>(groups_.size())).first->second;
  view.tier = spec.tier;
  view.state = JobState::kPending;
  view.submit_s = view.since_s = now_s_;
  view.duration_s = spec.estimate_s;
  view.deadline_s = spec.deadline_s;
  // Above all revisions of an earlier job of the same key, which a node may still remember.
  const int64_t revision = static_cast<int64_t>(index.value()) << 20;
  view.profile = ProfileOf(spec, view.group);
  ClusterJob job{.spec = spec, .revision = revision, .reason = "it has just been submitted"};
  job.spec.profile = nullptr;
  if (spec.devices_max > spec.devices && view.profile >= 0 && policy_resizes_ &&
      profiles_.of[view.profile].has_speed()) {
    job.policy_sizes = true;
    view.gpus_min = spec.devices;
    view.gpus_max = spec.devices_max;
  }
  jobs_.push_back(std::move(job));
  views_.push_back(view);
  by_key_[spec.key] = index;
  open_.insert(index);
  gate_.Hold(index, view.user);
  return index;
}

PlacedJob ClusterEngine::Placed(JobIndex index) const {
  const ClusterJob& job = jobs_[index.value()];
  return {.job = index,
          .placement = job.placement,
          .gang = views_[index.value()].gpus,
          .devices_max = job.policy_sizes || Shares(index) ? 0 : job.spec.devices_max};
}

// Takes the devices of a running job away; the caller says what it is then.
void ClusterEngine::Stop(JobIndex index) {
  ClusterJob& job = jobs_[index.value()];
  JobView& view = views_[index.value()];
  view.executed_s = view.ExecutedAt(now_s_);
  view.since_s = now_s_;
  gate_.Use(view.user, -job.devices(), now_s_);
  if (!job.target.empty()) DropTarget(index);
  placed_.Remove(Placed(index));
  if (Leave(index)) {
    devices_.Give(job.placement);
    running_held_ -= view.held;
  }
  view.held = 0;
  job.pace = 1;
  job.Replace({});
  job.away = job.stays = false;
  ++job.revision;
  --running_;
}

void ClusterEngine::Close(JobIndex index, JobState state) {
  JobView& view = views_[index.value()];
  view.state = state;
  if (!jobs_[index.value()].at_gate) gate_.Leave(view);
  by_key_.erase(jobs_[index.value()].spec.key);
  open_.erase(index);
}

void ClusterEngine::Finish(const std::string& key) {
  const JobIndex index = by_key_.at(key);
  ClusterJob& job = jobs_[index.value()];
  JobView& view = views_[index.value()];
  if (view.state == JobState::kRunning) {
    Stop(index);
    Close(index, JobState::kDone);
    ends_.push_back({.job = index, .kind = JobEventKind::kCompletion});
    return;
  }
  if (job.at_gate) gate_.Drop(index, view.user);
  const bool unheard = std::erase_if(arrivals_, [&](const sched::JobEvent& event) {
                         return event.job == index;
                       }) > 0;
  if (job.at_gate || unheard) return Close(index, JobState::kDone);
  // The policy has it in its queues and is not told of withdrawals: it is closed when it would
  // start.
  job.withdrawn = true;
  by_key_.erase(key);
}

void ClusterEngine::Evict(JobIndex index, std::string reason) {
  Stop(index);
  views_[index.value()].state = JobState::kPending;
  jobs_[index.value()].reason = reason;
  evictions_.push_back({.job = index, .kind = JobEventKind::kEviction});
  untold_.push_back({.job = index, .kind = ChangeKind::kEvict, .reason = std::move(reason)});
}

void ClusterEngine::SetNode(const ClusterInput& input) {
  const ClusterDevices::Node* known = devices_.Find(input.node);
  const NodeIndex index = devices_.IndexOf(input.node);
  const bool shrinks =
      known != nullptr && known->works && (!input.works || input.devices < known->devices);
  if (shrinks) {
    for (const auto& [since_s, job] : std::set<std::pair<double, JobIndex>>(moving_)) {
      const Placement& target = jobs_[job.value()].target;
      const auto there = [&](const DeviceShare& share) { return share.node == index; };
      if (std::any_of(target.begin(), target.end(), there))
        Stay(job, absl::StrCat("node ", input.node, " is lost"));
    }
    for (const JobIndex job : std::set<JobIndex>(placed_.On(index)))
      Evict(job, absl::StrCat("node ", input.node, " is lost"));
  }
  devices_.Set(input.node, input.devices, input.works);
  // Of the least: a policy does not say which devices it hands out.
  if (input.memory_gib > 0) {
    double& least = profiles_.gpu_memory_gib;
    least = least > 0 ? std::min(least, input.memory_gib) : input.memory_gib;
  }
}

// After a reservation has begun there may be more running than is open: those with the least work
// since their start give way, opportunistic ones first.
void ClusterEngine::FitCapacity() {
  if (gate_.reservations().empty()) return;
  const int open = gate_.Open(capacity());
  if (running_held_ <= open) return;
  std::vector<JobIndex> running;
  for (const JobIndex index : open_) {
    if (views_[index.value()].state != JobState::kRunning) continue;
    running.push_back(index);
  }
  const auto lost = [&](JobIndex index) {
    const JobView& view = views_[index.value()];
    return std::pair(static_cast<int>(view.tier), (now_s_ - view.since_s) * view.gpus);
  };
  std::stable_sort(running.begin(), running.end(),
                   [&](JobIndex a, JobIndex b) { return lost(a) < lost(b); });
  for (const JobIndex index : running) {
    if (running_held_ <= open) break;
    const std::string& user = jobs_[index.value()].spec.user;
    const auto owns = [&](const Reservation& reservation) {
      return reservation.user == user && reservation.from_s <= now_s_ && reservation.to_s > now_s_;
    };
    if (std::any_of(gate_.reservations().begin(), gate_.reservations().end(), owns)) continue;
    Evict(index, "a reservation begins, and it loses the least work");
  }
}

}  // namespace tide::coordinator

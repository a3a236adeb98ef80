// The engine's state as bytes: one description of the fields for saving and for loading.
//
// A structured binding names every field of a struct, so that a new one does not compile before it
// is visited here; then kVersion or kPolicyVersion grows.
#include <algorithm>
#include <limits>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/cluster_engine.h"

namespace tide::sched {

void VisitFields(FieldArchive& archive, JobEvent& event) {
  auto& [job, kind] = event;
  archive(job, kind);
}

void VisitFields(FieldArchive& archive, JobView& view) {
  auto& [gpus, user, group, tier, state, submit_s, duration_s, deadline_s, executed_s, since_s,
         rate, weight, profile, gpus_min, gpus_max, held, holding, type] = view;
  archive(gpus, user, group, tier, state, submit_s, duration_s, deadline_s, executed_s, since_s);
  archive(rate, weight, profile, gpus_min, gpus_max, held, holding, type);
}

void VisitFields(FieldArchive& archive, ClusterPolicyOptions& options) {
  auto& [seed, queue_limits_s, starvation_knob, round_s, restart_cost_s, quotas, strict,
         profiler_gpus, profiler_limit_s] = options;
  archive(seed, queue_limits_s, starvation_knob, round_s, restart_cost_s, quotas, strict);
  archive(profiler_gpus, profiler_limit_s);
}

}  // namespace tide::sched

namespace tide::sched {

void VisitFields(FieldArchive& archive, BatchModel& model) {
  auto& [own, most, noise, step_s, example_s, sync_s, sync_gpu_s, overlap] = model;
  archive(own, most, noise, step_s, example_s, sync_s, sync_gpu_s, overlap);
}

void VisitFields(FieldArchive& archive, JobProfile& profile) {
  auto& [speed, type_speed, stage_s, busy, memory_gib, scratch_gib, memory_speed, batch, cpu_speed,
         host_speed] = profile;
  archive(speed, type_speed, stage_s, busy, memory_gib, scratch_gib, memory_speed, batch);
  archive(cpu_speed, host_speed);
}

}  // namespace tide::sched

namespace tide::coordinator {

using sched::JobState;
using sched::JobView;

namespace {

constexpr char kMagic[] = "tide-cluster";
constexpr int kVersion = 3;
constexpr int kMovesVersion = 2;    // the first with moves and with nodes that drain
constexpr int kSharingVersion = 3;  // the first with jobs that share devices, and with profiles
constexpr int kPolicyVersion = 2;   // of the states of all policies; another one is told anew

bool IsOpen(JobState state) { return state != JobState::kDone && state != JobState::kRefused; }

bool Within(int index, size_t size) { return index >= 0 && static_cast<size_t>(index) < size; }

}  // namespace

void VisitFields(FieldArchive& archive, JobSpec& spec) {
  auto& [key, user, group, devices, devices_max, estimate_s, deadline_s, tier, movable, profile] =
      spec;
  (void)profile;  // the engine has taken it over
  archive(key, user, group, devices, devices_max, estimate_s, deadline_s, tier);
  if (archive.version() >= kMovesVersion) archive(movable);
}

void VisitFields(FieldArchive& archive, DeviceShare& share) {
  auto& [node, devices] = share;
  archive(node, devices);
}

void VisitFields(FieldArchive& archive, ClusterJob& job) {
  auto& [spec, placement, before, revision, first_start_s, resized_s, pace, policy_sizes, at_gate,
         withdrawn, reason, target, target_s, target_why, away, stays] = job;
  archive(spec, placement, before, revision, first_start_s, resized_s, at_gate, withdrawn, reason);
  if (archive.version() < kMovesVersion) return;
  archive(target, away, stays);
  if (!target.empty()) archive(target_s, target_why);
  if (archive.version() >= kSharingVersion) archive(pace, policy_sizes);
}

void VisitFields(FieldArchive& archive, ClusterChange& change) {
  auto& [job, kind, reason] = change;
  archive(job, kind, reason);
}

void VisitFields(FieldArchive& archive, Reservation& reservation) {
  auto& [name, user, devices, from_s, to_s] = reservation;
  archive(name, user, devices, from_s, to_s);
}

void VisitFields(FieldArchive& archive, ClusterGate::User& user) {
  auto& [name, rule, used_device_s, used_at_s, running, admitted, held, aside, fresh] = user;
  (void)rule;  // of the options
  archive(name, used_device_s, used_at_s, running, admitted, held, aside, fresh);
}

void VisitFields(FieldArchive& archive, ClusterDevices::Node& node) {
  auto& [name, devices, used, works, drains] = node;
  archive(name, devices, used, works);
  if (archive.version() >= kMovesVersion) archive(drains);
}

void ClusterGate::VisitFields(FieldArchive& archive) {
  archive(users_, reservations_, admitted_devices_);
  if (!archive.reading()) return;
  held_ = 0;
  sorted_devices_ = -1;  // a quota may be another one now
  by_name_.clear();
  for (size_t i = 0; i < users_.size(); ++i) {
    const auto rule = options_.users.find(users_[i].name);
    if (rule != options_.users.end()) users_[i].rule = rule->second;
    by_name_[users_[i].name] = static_cast<int>(i);
    held_ += users_[i].held.size() + users_[i].aside.size() + users_[i].fresh.size();
  }
}

void ClusterDevices::VisitFields(FieldArchive& archive) {
  archive(nodes_);
  if (!archive.reading()) return;
  by_name_.clear();
  by_free_.clear();
  free_ = working_ = withheld_ = draining_ = 0;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    by_name_[nodes_[i].name] = NodeIndex(static_cast<int>(i));
    Count(nodes_[i], +1);
  }
}

// Jobs of which more than that they have ended can still matter.
std::vector<JobIndex> ClusterEngine::Kept() const {
  std::vector<JobIndex> kept(open_.begin(), open_.end());
  for (const auto* events : {&ends_, &evictions_, &arrivals_}) {
    for (const sched::JobEvent& event : *events) kept.push_back(event.job);
  }
  for (const ClusterChange& change : untold_) kept.push_back(change.job);
  std::sort(kept.begin(), kept.end());
  kept.erase(std::unique(kept.begin(), kept.end()), kept.end());
  return kept;
}

std::vector<JobIndex> ClusterEngine::VisitJobs(FieldArchive& archive) {
  std::vector<JobIndex> kept = archive.reading() ? std::vector<JobIndex>() : Kept();
  size_t count = jobs_.size();
  archive(count, kept);
  if (archive.reading()) {
    const bool fits =
        count <= static_cast<size_t>(std::numeric_limits<int>::max()) &&
        std::is_sorted(kept.begin(), kept.end()) &&
        (kept.empty() || (kept.front().value() >= 0 && Within(kept.back().value(), count)));
    if (!fits) archive.Fail("jobs are out of range");
    if (!archive.status().ok()) return {};
    jobs_.resize(count);
    sched::JobView over;
    over.state = JobState::kDone;
    views_.assign(count, over);
  }
  for (const JobIndex index : kept) archive(jobs_[index.value()], views_[index.value()]);
  return kept;
}

// Its own bytes with their length, so that who cannot read them can go past.
void ClusterEngine::VisitPolicy(FieldArchive& archive, const std::vector<JobIndex>& kept) {
  FieldArchive identity;
  int version = kPolicyVersion;
  identity(version, options_.policy, options_.policy_options);
  const std::string own = identity.Take();
  std::string whose = own, state;
  if (!archive.reading()) {
    FieldArchive inner;
    sched::PolicyArchive policy{.fields = inner, .kept = kept};
    policy_->VisitState(policy);
    state = inner.Take();
  }
  archive(whose, state);
  if (!archive.reading() || !archive.status().ok()) return;
  FieldArchive inner(state);
  sched::PolicyArchive policy{.fields = inner, .kept = kept};
  retold_ = whose != own || !policy_->VisitState(policy);
  if (!retold_ && (!inner.status().ok() || inner.rest() > 0)) archive.Fail("the policy's state");
}

void ClusterEngine::VisitFields(FieldArchive& archive) {
  archive(now_s_, wake_s_, started_s_, dirty_, devices_, gate_, groups_);
  archive(ends_, evictions_, arrivals_, untold_);
  if (archive.version() >= kSharingVersion)
    archive(profiles_.of, profiles_.gpu_memory_gib, profile_of_group_);
  const std::vector<JobIndex> kept = VisitJobs(archive);
  VisitPolicy(archive, kept);
  if (!archive.reading() || !archive.status().ok()) return;
  if (const absl::Status status = Rebuild(kept); !status.ok()) archive.Fail(status.message());
}

// The indexes over what was read.
absl::Status ClusterEngine::Rebuild(const std::vector<JobIndex>& kept) {
  const auto known = [&](JobIndex job) {
    return std::binary_search(kept.begin(), kept.end(), job);
  };
  for (const auto* events : {&ends_, &evictions_, &arrivals_}) {
    for (const sched::JobEvent& event : *events) {
      if (!known(event.job)) return absl::DataLossError("an event of a job that is not there");
    }
  }
  for (const ClusterGate::User& user : gate_.users()) {
    for (const auto* held : {&user.held, &user.aside, &user.fresh}) {
      if (!std::all_of(held->begin(), held->end(), known))
        return absl::DataLossError("a job is held that is not there");
    }
  }
  for (const JobIndex index : kept) {
    const ClusterJob& job = jobs_[index.value()];
    const JobView& view = views_[index.value()];
    if (!Within(view.user, gate_.users().size())) return absl::DataLossError("no such user");
    for (const Placement* placement : {&job.placement, &job.placement_before, &job.target}) {
      for (const DeviceShare& share : *placement) {
        if (!Within(share.node.value(), devices_.nodes().size()))
          return absl::DataLossError("no such node");
      }
    }
    if (!IsOpen(view.state)) continue;
    open_.insert(index);
    if (!job.withdrawn) by_key_[job.spec.key] = index;
    if (view.state != JobState::kRunning) continue;
    ++running_;
    std::vector<JobIndex>& members = holdings_[view.holding];
    if (members.empty()) running_held_ += view.held;
    members.push_back(index);
    if (job.target.empty()) continue;
    moving_.insert({job.target_s, index});
    moving_devices_ += view.gpus;
  }
  for (const JobIndex index : open_) {
    if (views_[index.value()].state == JobState::kRunning) placed_.Add(Placed(index));
  }
  return absl::OkStatus();
}

// A policy without a past hears of all open jobs as of newcomers. Nothing has stopped: what it
// starts at once goes on where it ran.
void ClusterEngine::Retell() {
  ends_.clear();
  evictions_.clear();
  arrivals_.clear();
  wake_s_ = sched::kNever;
  dirty_ = true;
  for (const JobIndex index : std::set<JobIndex>(open_)) {
    ClusterJob& job = jobs_[index.value()];
    if (job.withdrawn) {
      Close(index, JobState::kDone);
      continue;
    }
    if (views_[index.value()].state == JobState::kRunning) {
      Stop(index);
      views_[index.value()].state = JobState::kPending;
      job.reason = absl::StrCat("the policy is ", options_.policy, " now");
    }
    if (!job.at_gate) arrivals_.push_back({.job = index, .kind = sched::JobEventKind::kArrival});
  }
}

std::string ClusterEngine::Snapshot() {
  FieldArchive body;
  body.SetVersion(kVersion);
  VisitFields(body);
  std::string bytes = body.Take();
  FieldArchive head;
  std::string magic = kMagic;
  int version = kVersion;
  uint64_t checksum = XXH3_64bits(bytes.data(), bytes.size());
  head(magic, version, checksum);
  return head.Take() + bytes;
}

absl::StatusOr<std::unique_ptr<ClusterEngine>> ClusterEngine::Restore(const ClusterOptions& options,
                                                                      absl::string_view snapshot) {
  TIDE_ASSIGN_OR_RETURN(auto engine, Make(options));
  FieldArchive head(snapshot);
  std::string magic;
  int version = 0;
  uint64_t checksum = 0;
  head(magic, version, checksum);
  TIDE_RETURN_IF_ERROR(head.status());
  if (magic != kMagic) return absl::DataLossError("it does not begin as a snapshot");
  if (version < 1 || version > kVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("the journal's snapshot of the cluster has version ", version,
                     ", this tided reads 1 to ", kVersion, ": start the one that wrote it"));
  }
  const absl::string_view bytes = snapshot.substr(snapshot.size() - head.rest());
  if (XXH3_64bits(bytes.data(), bytes.size()) != checksum)
    return absl::DataLossError("its checksum is wrong");
  FieldArchive body(bytes);
  body.SetVersion(version);
  engine->VisitFields(body);
  TIDE_RETURN_IF_ERROR(body.status());
  if (body.rest() > 0) return absl::DataLossError("it is longer than what it holds");
  if (engine->retold_) engine->Retell();
  return engine;
}

}  // namespace tide::coordinator

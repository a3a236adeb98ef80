// Jobs on the same devices, jobs whose size the policy chooses, and what that makes of their speed.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "coordinator/cluster_engine.h"
#include "sched/corun.h"

namespace tide::coordinator {

using sched::JobAction;
using sched::JobEventKind;
using sched::JobState;
using sched::JobView;

int ClusterEngine::ProfileOf(const JobSpec& spec, int group) {
  const auto known = profile_of_group_.find(group);
  if (spec.profile == nullptr) return known == profile_of_group_.end() ? -1 : known->second;
  const int next = static_cast<int>(profiles_.of.size());
  const auto [entry, is_new] = profile_of_group_.try_emplace(group, next);
  if (is_new) profiles_.of.emplace_back();
  profiles_.of[entry->second] = *spec.profile;
  return entry->second;
}

// Its own number, unless others are still on the devices that it had before.
int ClusterEngine::NewHolding(JobIndex index) const {
  int holding = index.value();
  while (holdings_.contains(holding)) holding += static_cast<int>(jobs_.size());
  return holding;
}

bool ClusterEngine::Shares(JobIndex index) const {
  const auto found = holdings_.find(views_[index.value()].holding);
  return found != holdings_.end() && found->second.size() > 1;
}

// A job that shares neither grows nor gives back what its neighbour is on as well, so its place in
// the index is another one then.
void ClusterEngine::Enter(JobIndex index, int holding) {
  std::vector<JobIndex>& members = holdings_[holding];
  for (const JobIndex other : members) placed_.Remove(Placed(other));
  members.push_back(index);
  views_[index.value()].holding = holding;
  for (const JobIndex other : members) placed_.Add(Placed(other));
  UpdateRates(holding);
}

bool ClusterEngine::Leave(JobIndex index) {
  JobView& view = views_[index.value()];
  const int holding = std::exchange(view.holding, -1);
  const auto found = holdings_.find(holding);
  std::vector<JobIndex>& members = found->second;
  for (const JobIndex other : members) {
    if (other != index) placed_.Remove(Placed(other));
  }
  std::erase(members, index);
  if (members.empty()) {
    holdings_.erase(found);
    return true;
  }
  for (const JobIndex other : members) placed_.Add(Placed(other));
  UpdateRates(holding);
  return false;
}

// Books service at the old rate where there was another one.
void ClusterEngine::UpdateRates(int holding) {
  const std::vector<JobIndex>& members = holdings_.at(holding);
  std::vector<double> speeds(members.size(), 1.0);
  const bool alone = members.size() == 1 && jobs_[members[0].value()].pace >= 1;
  if (!alone || profiles_.gpu_memory_gib > 0) {
    std::vector<sched::CorunMember> corun;
    for (const JobIndex member : members) {
      corun.push_back(
          {.profile = views_[member.value()].profile, .pace = jobs_[member.value()].pace});
    }
    speeds = sched::CorunSpeeds(corun, profiles_, 0);
  }
  for (size_t i = 0; i < members.size(); ++i) {
    JobView& view = views_[members[i].value()];
    if (view.since_s != now_s_) {
      view.executed_s = view.ExecutedAt(now_s_);
      view.since_s = now_s_;
    }
    view.rate = sched::SpeedOf(view, &profiles_, view.held) * SpreadSpeed(members[i]) * speeds[i];
  }
}

std::string ClusterEngine::WhyNotBeside(JobIndex host, int devices) const {
  const JobView& view = views_[host.value()];
  const ClusterJob& job = jobs_[host.value()];
  if (view.state != JobState::kRunning) return "that job does not run";
  if (view.held != devices) {
    return absl::StrCat("that job holds ", view.held, " devices, this one asks for ", devices);
  }
  if (!job.target.empty() || job.away) return "that job is being moved";
  const size_t there = holdings_.at(view.holding).size();
  if (there < static_cast<size_t>(sched::kShareMax)) return "";
  return absl::StrCat(there, " jobs are on its devices");
}

void ClusterEngine::StartBeside(const JobAction& action, std::vector<ClusterChange>& changes) {
  const JobIndex index = action.job;
  const JobIndex host = action.beside;
  JobView& view = views_[index.value()];
  const JobView& hosts = views_[host.value()];
  const int gpus = action.gpus > 0 ? action.gpus : view.gpus;
  if (const std::string why = WhyNotBeside(host, gpus); !why.empty()) {
    return PutBack(index,
                   absl::StrCat("starting it beside ", jobs_[host.value()].spec.key,
                                " was not carried out: ", why),
                   changes);
  }
  GiveExtraBack(host, changes);
  ClusterJob& job = jobs_[index.value()];
  LogAction(action);
  job.placement = jobs_[host.value()].placement;
  job.pace = action.pace;
  Started(index, gpus,
          absl::StrCat(action.reason, "; it shares the devices of ", jobs_[host.value()].spec.key),
          changes);
  Enter(index, hosts.holding);
}

// The policy counts otherwise than we do: it is told so.
void ClusterEngine::PutBack(JobIndex index, std::string reason,
                            std::vector<ClusterChange>& changes) {
  jobs_[index.value()].reason = reason;
  evictions_.push_back({.job = index, .kind = JobEventKind::kEviction});
  changes.push_back({.job = index, .kind = ChangeKind::kPutOff, .reason = std::move(reason)});
}

// Before another one comes to its devices it has its gang alone.
void ClusterEngine::GiveExtraBack(JobIndex index, std::vector<ClusterChange>& changes) {
  ClusterJob& job = jobs_[index.value()];
  const int extra = job.devices() - views_[index.value()].held;
  if (extra <= 0) return;
  ShrinkBy(index, extra);
  job.reason = absl::StrCat("another job comes to its devices: it goes on with ", job.devices());
  Resized(index, changes);
}

void ClusterEngine::ShrinkBy(JobIndex index, int devices) {
  for (; devices > 0; --devices) ShrinkOne(index, jobs_[index.value()].placement.back().node);
}

void ClusterEngine::GrowBy(JobIndex index, int devices) {
  placed_.Remove(Placed(index));
  for (; devices > 0; --devices) {
    devices_.AddOne(jobs_[index.value()].placement);
    gate_.Use(views_[index.value()].user, +1, now_s_);
  }
  placed_.Add(Placed(index));
}

void ClusterEngine::Resized(JobIndex index, std::vector<ClusterChange>& changes) {
  ClusterJob& job = jobs_[index.value()];
  ++job.revision;
  job.resized_s = now_s_;
  changes.push_back({.job = index, .kind = ChangeKind::kResize, .reason = job.reason});
}

void ClusterEngine::Resize(const JobAction& action, std::vector<ClusterChange>& changes) {
  const JobIndex index = action.job;
  ClusterJob& job = jobs_[index.value()];
  JobView& view = views_[index.value()];
  if (view.state != JobState::kRunning || action.gpus < 1) return;
  const int more = action.gpus - view.held;
  if (more > 0) MakeRoom(more, changes);
  if (!job.policy_sizes || Shares(index) || more > devices_.free()) {
    std::string reason = absl::StrCat(
        "resizing it to ", action.gpus, " devices was not carried out (", action.reason, "): ",
        !job.policy_sizes ? "what is beyond its gang follows what is idle"
        : Shares(index)   ? "another job shares its devices"
                          : absl::StrCat(devices_.free(), " are free"));
    if (job.reason == reason) return;
    job.reason = reason;
    changes.push_back({.job = index, .kind = ChangeKind::kPutOff, .reason = std::move(reason)});
    return;
  }
  LogAction(action);
  view.executed_s = view.ExecutedAt(now_s_);
  view.since_s = now_s_;
  if (more > 0) GrowBy(index, more);
  if (more < 0) ShrinkBy(index, -more);
  running_held_ += more;
  view.held = action.gpus;
  UpdateRates(view.holding);
  job.reason = action.reason;
  Resized(index, changes);
}

void ClusterEngine::Pace(const JobAction& action, std::vector<ClusterChange>& changes) {
  ClusterJob& job = jobs_[action.job.value()];
  const JobView& view = views_[action.job.value()];
  if (view.state != JobState::kRunning || !(action.pace > 0 && action.pace <= 1)) return;
  LogAction(action);
  job.pace = action.pace;
  job.reason = absl::StrFormat("%s: it has %.0f %% of the time", action.reason, 100 * action.pace);
  ++job.revision;
  UpdateRates(view.holding);
  changes.push_back({.job = action.job, .kind = ChangeKind::kPace, .reason = job.reason});
}

}  // namespace tide::coordinator

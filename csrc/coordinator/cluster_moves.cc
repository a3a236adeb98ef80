// Running jobs to other nodes: who asked, what is kept for them meanwhile, and nodes that drain.
//
// The engine moves grants; who started the job ends it with a checkpoint and starts it again. Until
// it says that the job has left, the job holds its devices and those of its target.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "coordinator/cluster_engine.h"

namespace tide::coordinator {

using sched::JobState;
using sched::JobView;
using wire::MoveStep;

absl::Status ClusterEngine::UnknownNode(const std::string& name) const {
  constexpr size_t kShown = 8;
  std::string there;
  for (const ClusterDevices::Node& node : devices_.nodes()) {
    if (&node - devices_.nodes().data() == kShown) break;
    absl::StrAppend(&there, there.empty() ? "" : ", ", node.name);
  }
  return absl::InvalidArgumentError(absl::StrCat("no node is called ", name, "; there are ", there,
                                                 devices_.nodes().size() > kShown ? ", ..."
                                                 : devices_.nodes().empty()       ? "none"
                                                                                  : ""));
}

absl::Status ClusterEngine::CheckMove(const ClusterInput& input) const {
  const std::string& key = input.spec.key;
  const JobIndex index = Find(key);
  if (index.value() < 0) return absl::NotFoundError(absl::StrCat("no open job has the key ", key));
  if (input.reason.size() > 500) return absl::InvalidArgumentError("a reason has 500 bytes");
  const ClusterJob& job = jobs_[index.value()];
  if (!job.spec.movable) {
    return absl::FailedPreconditionError(
        absl::StrCat(key, " was not submitted with --movable: nobody would carry it over"));
  }
  if (input.step != MoveStep::kAsk) return absl::OkStatus();
  if (views_[index.value()].state != JobState::kRunning) {
    return absl::FailedPreconditionError(
        absl::StrCat(key, " waits for devices; a job that runs can be moved"));
  }
  if (!job.target.empty()) {
    return absl::AlreadyExistsError(
        absl::StrCat(key, " is being moved already, to ", devices_.Words(job.target)));
  }
  if (job.away) {
    return absl::AlreadyExistsError(
        absl::StrCat(key, " is being carried over to ", devices_.Words(job.placement), " already"));
  }
  if (Shares(index)) {
    return absl::FailedPreconditionError(absl::StrCat(
        key, " shares its devices with another job; it can be moved when it is alone"));
  }
  const NodeIndex to = devices_.IndexOf(input.node);
  if (!input.node.empty()) {
    const ClusterDevices::Node* node = devices_.Find(input.node);
    if (node == nullptr) return UnknownNode(input.node);
    if (!node->works) return absl::FailedPreconditionError(input.node + " is lost");
    if (node->drains) {
      return absl::FailedPreconditionError(absl::StrCat(
          input.node, " is being emptied; `tide drain ", input.node, " --undo` ends that"));
    }
    if (job.placement.size() == 1 && job.placement.front().node == to)
      return absl::FailedPreconditionError(absl::StrCat(key, " runs on ", input.node, " already"));
  }
  const int room = RoomFor(index, to), wanted = views_[index.value()].gpus;
  if (room >= wanted) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrFormat(
      "%s has %d devices; %d are free for it %s, with those that elastic jobs would give back", key,
      wanted, std::max(0, room), input.node.empty() ? "on other nodes" : "on " + input.node));
}

absl::Status ClusterEngine::CheckDrain(const ClusterInput& input) const {
  return devices_.Find(input.node) != nullptr ? absl::OkStatus() : UnknownNode(input.node);
}

// Whether devices of `node` may be taken for a move; `to` is negative where any node will do.
bool ClusterEngine::MayMoveTo(JobIndex job, NodeIndex to, NodeIndex node) const {
  if (to.value() >= 0) return node == to;
  const ClusterDevices::Node& known = devices_.nodes()[node.value()];
  if (!known.works || known.drains) return false;
  const Placement& now = jobs_[job.value()].placement;
  return std::none_of(now.begin(), now.end(),
                      [&](const DeviceShare& share) { return share.node == node; });
}

// Free devices where it may go and what elastic jobs have there beyond their gangs, but not what is
// kept for reservations.
int ClusterEngine::RoomFor(JobIndex job, NodeIndex to) const {
  const auto allowed = [&](NodeIndex node) { return MayMoveTo(job, to, node); };
  int room = devices_.FreeOn(allowed);
  for (const auto& [minus_extra, other] : placed_.extra()) {
    int there = 0;
    for (const DeviceShare& share : jobs_[other.value()].placement)
      there += allowed(share.node) ? share.devices : 0;
    room += std::min(-minus_extra, there);
  }
  return static_cast<int>(std::min<int64_t>(room, gate_.Open(capacity()) - running_held_));
}

void ClusterEngine::BeginMove(JobIndex index, NodeIndex to, std::string why,
                              std::vector<ClusterChange>& changes) {
  ClusterJob& job = jobs_[index.value()];
  const int devices = views_[index.value()].gpus;
  const auto allowed = [&](NodeIndex node) { return MayMoveTo(index, to, node); };
  std::set<JobIndex> shrunk;
  int missing = devices - devices_.FreeOn(allowed);
  const auto elastic = placed_.extra();
  for (auto next = elastic.begin(); missing > 0 && next != elastic.end(); ++next) {
    int extra = -next->first;
    const Placement placement = jobs_[next->second.value()].placement;
    for (auto share = placement.rbegin(); share != placement.rend(); ++share) {
      for (int i = 0; allowed(share->node) && i < share->devices && extra > 0 && missing > 0; ++i) {
        ShrinkOne(next->second, share->node);
        shrunk.insert(next->second);
        --extra, --missing;
      }
    }
  }
  SayShrunk(shrunk, changes);
  job.target = devices_.TakeOn(devices, allowed);
  job.target_s = now_s_;
  job.target_why = why;
  moving_.insert({now_s_, index});
  moving_devices_ += devices;
  changes.push_back(
      {.job = index,
       .kind = ChangeKind::kMoving,
       .reason = absl::StrCat("from ", devices_.Words(job.placement), " to ",
                              devices_.Words(job.target), " once it has saved: ", why)});
}

void ClusterEngine::DropTarget(JobIndex index) {
  ClusterJob& job = jobs_[index.value()];
  moving_.erase({job.target_s, index});
  moving_devices_ -= views_[index.value()].gpus;
  devices_.Give(std::exchange(job.target, Placement()));
}

// It keeps what it has; what was kept for it is free.
void ClusterEngine::Stay(JobIndex index, const std::string& why) {
  DropTarget(index);
  jobs_[index.value()].reason = why;
  untold_.push_back({.job = index, .kind = ChangeKind::kStays, .reason = why});
}

// From now on it runs on `placement`, which has been taken for it; what it had has been given back.
void ClusterEngine::Settle(JobIndex index, Placement placement, const std::string& why) {
  ClusterJob& job = jobs_[index.value()];
  JobView& view = views_[index.value()];
  const std::string from = devices_.Words(job.placement);
  job.Replace(std::move(placement));
  job.away = job.stays = false;
  std::string text = absl::StrCat("from ", from, " to ", devices_.Words(job.placement), ": ", why);
  job.reason = absl::StrCat("moved ", text);
  ++job.revision;
  view.executed_s = view.ExecutedAt(now_s_);
  view.since_s = started_s_ = now_s_;
  UpdateRates(view.holding);
  placed_.Add(Placed(index));
  untold_.push_back({.job = index, .kind = ChangeKind::kMoved, .reason = std::move(text)});
}

// Its command has ended where it was. Said again it changes nothing.
void ClusterEngine::Left(JobIndex index) {
  ClusterJob& job = jobs_[index.value()];
  if (!job.target.empty()) {
    const Placement target = job.target;
    const std::string why =
        absl::StrFormat("%s, %.1f s after it was asked for", job.target_why, now_s_ - job.target_s);
    moving_.erase({job.target_s, index});
    moving_devices_ -= views_[index.value()].gpus;
    job.target.clear();
    placed_.Remove(Placed(index));
    devices_.Give(job.placement);
    return Settle(index, target, why);
  }
  if (!job.away) return;
  job.away = false;
  untold_.push_back({.job = index,
                     .kind = ChangeKind::kMoved,
                     .reason = absl::StrCat("from ", devices_.Words(job.placement_before), " to ",
                                            devices_.Words(job.placement), ": ", job.reason)});
}

// Its command cannot be where its devices are: back to where it was when there is room, else it
// waits for others.
void ClusterEngine::GoBack(JobIndex index, const std::string& why) {
  ClusterJob& job = jobs_[index.value()];
  Placement before;
  int had = 0;
  bool room = true;
  for (const DeviceShare& share : job.placement_before) {
    if (share.devices == 0) continue;
    const ClusterDevices::Node& node = devices_.nodes()[share.node.value()];
    int own = 0;
    for (const DeviceShare& now : job.placement) own += now.node == share.node ? now.devices : 0;
    room = room && node.works && !node.drains && node.free() + own >= share.devices;
    before.push_back(share);
    had += share.devices;
  }
  if (!room || had != views_[index.value()].gpus || Shares(index)) return Evict(index, why);
  placed_.Remove(Placed(index));
  devices_.Give(job.placement);
  Settle(index, devices_.Take(had, before), why);
}

void ClusterEngine::Move(const ClusterInput& input) {
  const JobIndex index = Find(input.spec.key);
  ClusterJob& job = jobs_[index.value()];
  if (views_[index.value()].state != JobState::kRunning) return;
  switch (input.step) {
    case MoveStep::kAsk:
      job.stays = false;
      return BeginMove(index, devices_.IndexOf(input.node), input.reason, untold_);
    case MoveStep::kLeft:
      return Left(index);
    case MoveStep::kStays:
      if (job.target.empty()) return job.away ? GoBack(index, input.reason) : void();
      job.stays = true;
      return Stay(index, input.reason);
    case MoveStep::kFailed:
      if (job.revision == input.revision && !job.placement_before.empty())
        GoBack(index, input.reason);
      return;
  }
}

void ClusterEngine::Drain(const ClusterInput& input) {
  const NodeIndex node = devices_.IndexOf(input.node);
  devices_.SetDrains(node, input.drains);
  for (const auto& [since_s, index] : std::set<std::pair<double, JobIndex>>(moving_)) {
    const ClusterJob& job = jobs_[index.value()];
    const auto there = [&](const DeviceShare& share) { return share.node == node; };
    if (input.drains && std::any_of(job.target.begin(), job.target.end(), there))
      Stay(index, absl::StrCat(input.node, " is being emptied"));
  }
  for (const JobIndex index : placed_.On(node)) jobs_[index.value()].stays = false;
}

// Movable jobs leave nodes that drain as soon as there is room elsewhere, and elastic ones give
// back what they have there beyond their gangs. The others stay until they end.
void ClusterEngine::EmptyNodes(std::vector<ClusterChange>& changes) {
  if (devices_.draining() == 0) return;
  std::set<JobIndex> shrunk;
  for (size_t i = 0; i < devices_.nodes().size(); ++i) {
    const NodeIndex node(static_cast<int>(i));
    if (!devices_.nodes()[i].drains) continue;
    for (const JobIndex index : std::set<JobIndex>(placed_.On(node))) {
      const ClusterJob& job = jobs_[index.value()];
      const int gang = views_[index.value()].gpus;
      const auto here = [&](const DeviceShare& share) { return share.node == node; };
      while (!job.policy_sizes && !Shares(index) && job.devices() > gang &&
             std::any_of(job.placement.begin(), job.placement.end(), here)) {
        ShrinkOne(index, node);
        shrunk.insert(index);
      }
      const bool settled = job.target.empty() && !job.away && !job.stays && !Shares(index);
      if (job.spec.movable && settled && RoomFor(index, NodeIndex()) >= gang)
        BeginMove(index, NodeIndex(), devices_.nodes()[i].name + " is being emptied", changes);
    }
  }
  SayShrunk(shrunk, changes);
}

void ClusterEngine::EndLateMoves() {
  while (!moving_.empty() && moving_.begin()->first + kMoveLongestS <= now_s_) {
    const JobIndex index = moving_.begin()->second;
    jobs_[index.value()].stays = true;
    Stay(index, absl::StrFormat("it did not leave within %.0f s", kMoveLongestS));
  }
}

}  // namespace tide::coordinator

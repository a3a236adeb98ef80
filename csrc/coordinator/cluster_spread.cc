// Jobs on more nodes than they need: what a policy is told of nodes, and the moves that it decides.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "coordinator/cluster_engine.h"

namespace tide::coordinator {

using sched::ClusterDecision;
using sched::JobAction;
using sched::JobActionKind;
using sched::JobState;

// Of each working node; 0 when they are not alike, or nodes do not matter.
int ClusterEngine::DevicesANode() const {
  if (options_.spread_speed >= 1) return 0;
  int each = 0;
  for (const ClusterDevices::Node& node : devices_.nodes()) {
    if (!node.works) continue;
    if (each != 0 && node.devices != each) return 0;
    each = node.devices;
  }
  return each;
}

bool ClusterEngine::IsSpread(JobIndex index, int devices_a_node) const {
  if (devices_a_node == 0) return false;
  const ClusterJob& job = jobs_[index.value()];
  const int needed = (job.devices() + devices_a_node - 1) / devices_a_node;
  return static_cast<int>(job.placement.size()) > needed;
}

double ClusterEngine::SpreadSpeed(JobIndex index) const {
  return IsSpread(index, DevicesANode()) ? options_.spread_speed : 1;
}

// Of a job that nobody could carry over a policy hears no more nodes than it needs, so that it
// finds nothing to move.
sched::ClusterView ClusterEngine::PolicyView() {
  sched::ClusterView view{.gpus = gate_.Open(capacity())};
  const int each = DevicesANode();
  if (each == 0) return view;
  nodes_of_jobs_.assign(jobs_.size(), 0);
  for (const JobIndex index : open_) {
    const ClusterJob& job = jobs_[index.value()];
    if (views_[index.value()].state != JobState::kRunning) continue;
    const bool can =
        job.spec.movable && job.target.empty() && !job.away && !job.stays && !Shares(index);
    const int needed = (job.devices() + each - 1) / each;
    nodes_of_jobs_[index.value()] = can ? static_cast<int>(job.placement.size()) : needed;
  }
  free_by_node_.clear();
  for (const ClusterDevices::Node& node : devices_.nodes()) free_by_node_.push_back(node.free());
  view.gpus_per_node = each;
  view.nodes_of_jobs = nodes_of_jobs_;
  view.free_by_node = free_by_node_;
  return view;
}

// A policy moves a job by stopping and starting it at once. Here it runs on until it has saved.
std::set<JobIndex> ClusterEngine::MoveAsDecided(const ClusterDecision& decision,
                                                std::vector<ClusterChange>& changes) {
  std::set<JobIndex> moved;
  const int each = DevicesANode();
  if (each == 0) return moved;
  for (const JobAction& action : decision.actions) {
    const ClusterJob& job = jobs_[action.job.value()];
    const bool can = job.spec.movable && job.target.empty() && !job.away && !Shares(action.job);
    const bool stops = action.kind == JobActionKind::kPreempt &&
                       views_[action.job.value()].state == JobState::kRunning;
    if (!stops || !can || !IsSpread(action.job, each)) continue;
    const auto starts_again = [&](const JobAction& other) {
      return other.job == action.job && other.kind == JobActionKind::kStart &&
             other.beside.value() < 0;
    };
    if (std::none_of(decision.actions.begin(), decision.actions.end(), starts_again)) continue;
    moved.insert(action.job);
    ConsolidateOne(action, each, changes);
  }
  return moved;
}

void ClusterEngine::ConsolidateOne(const JobAction& action, int each,
                                   std::vector<ClusterChange>& changes) {
  ClusterJob& job = jobs_[action.job.value()];
  const int devices = job.devices();
  NodeIndex to;
  for (size_t i = 0; devices <= each && i < devices_.nodes().size(); ++i) {
    const int free = devices_.nodes()[i].free();
    const bool fuller = to.value() < 0 || free < devices_.nodes()[to.value()].free();
    if (free >= devices && fuller) to = NodeIndex(static_cast<int>(i));
  }
  const bool room = (devices > each || to.value() >= 0) && RoomFor(action.job, to) >= devices;
  if (room) {
    absl::StrAppendFormat(&log_, "%.3f move %s: %s\n", now_s_, job.spec.key, action.reason);
    return BeginMove(action.job, to, action.reason, changes);
  }
  std::string reason = absl::StrCat("moving it was not carried out (", action.reason,
                                    "): the room is kept for others");
  if (job.reason == reason) return;
  job.reason = reason;
  changes.push_back({.job = action.job, .kind = ChangeKind::kPutOff, .reason = std::move(reason)});
}

}  // namespace tide::coordinator

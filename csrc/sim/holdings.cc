// A holding is a set of GPUs with the jobs on it; its nodes come from the pool of its type.
#include "sim/holdings.h"

#include <algorithm>

#include "sched/cluster_policy.h"

namespace tide::sim {

Holdings::Holdings(const ClusterSpec& cluster, const sched::Profiles& profiles, size_t jobs,
                   const sched::NodeTuner* tuner)
    : cluster_(cluster),
      profiles_(profiles),
      tuner_(tuner),
      nodes_of_jobs_(jobs, 0),
      holding_of_(jobs, -1) {
  std::vector<GpuType> types = cluster.types;
  if (types.empty()) {
    types.push_back({.nodes = cluster.nodes, .gpus_per_node = cluster.gpus_per_node});
    const int lent = cluster.NodesLent();
    if (lent > 0) types.push_back({.nodes = lent, .gpus_per_node = cluster.gpus_per_node});
  }
  int node = 0;
  for (const GpuType& type : types) {
    pools_.emplace_back(type.nodes, type.gpus_per_node);
    first_node_.push_back(node);
    node += type.nodes;
    by_type_.push_back(type.nodes * type.gpus_per_node);
    free_by_node_.resize(node, type.gpus_per_node);
    gpus_ += by_type_.back();
  }
  nodes_.resize(node);
  for (int lent = cluster.Nodes(); lent < node; ++lent) Fail(lent);  // until somebody lends it
}

int Holdings::PoolOfNode(int node) const {
  const auto after = std::upper_bound(first_node_.begin(), first_node_.end(), node);
  return static_cast<int>(after - first_node_.begin()) - 1;
}

int Holdings::free() const {
  int free = 0;
  for (const Nodes& pool : pools_) free += pool.free();
  return free;
}

int Holdings::gpus_working() const {
  int working = 0;
  for (const Nodes& pool : pools_) working += pool.gpus_working();
  return working;
}

Allocation Holdings::TakeOf(int type, int gpus) {
  Allocation nodes = pools_[type].Take(gpus);
  for (NodeShare& share : nodes) share.node += first_node_[type];
  NoteNodes(nodes);
  return nodes;
}

void Holdings::GiveBack(const Allocation& nodes) {
  for (const NodeShare& share : nodes) {
    const int type = PoolOfNode(share.node);
    pools_[type].Give({{.node = share.node - first_node_[type], .gpus = share.gpus}});
  }
  NoteNodes(nodes);
}

void Holdings::NoteNodes(const Allocation& nodes) {
  for (const NodeShare& share : nodes) {
    const int type = PoolOfNode(share.node);
    free_by_node_[share.node] = pools_[type].FreeOf(share.node - first_node_[type]);
    if (host_matters()) TouchNode(share.node);  // its CPUs are divided anew
  }
}

int Holdings::NewHolding() {
  if (unused_.empty()) {
    holdings_.emplace_back();
    return static_cast<int>(holdings_.size()) - 1;
  }
  const int index = unused_.back();
  unused_.pop_back();
  return index;
}

bool Holdings::Start(int job, int profile, int gpus, int type) {
  const int types = static_cast<int>(pools_.size());
  if (type >= types || gpus > (type < 0 ? free() : pools_[type].free())) return false;
  for (int i = 0; i < types && type < 0; ++i) {
    if (pools_[i].free() >= gpus) type = i;
  }
  const int index = NewHolding();
  Holding& holding = holdings_[index];
  holding.gpus = gpus;
  holding.type = type;
  holding.members.push_back({.job = job, .corun = {.profile = profile}});
  TakeMore(holding, gpus);
  holding_of_[job] = index;
  Touch(holding);
  return true;
}

// Of the holding's type first, then of the others in order.
void Holdings::TakeMore(Holding& holding, int gpus) {
  for (int i = -1; i < static_cast<int>(pools_.size()) && gpus > 0; ++i) {
    const int type = i < 0 ? holding.type : i;
    const int part = type < 0 ? 0 : std::min(gpus, pools_[type].free());
    if (part == 0) continue;
    gpus -= part;
    if (holding.type < 0) holding.type = type;
    for (const NodeShare& more : TakeOf(type, part)) {
      const auto same = std::find_if(holding.nodes.begin(), holding.nodes.end(),
                                     [&](const NodeShare& has) { return has.node == more.node; });
      if (same == holding.nodes.end()) {
        holding.nodes.push_back(more);
      } else {
        same->gpus += more.gpus;
      }
    }
  }
}

bool Holdings::Share(int job, int profile, int host, double pace) {
  const int index = holding_of_[host];
  if (index < 0 || holdings_[index].members.size() >= sched::kShareMax) return false;
  holdings_[index].members.push_back({.job = job, .corun = {.profile = profile, .pace = pace}});
  holding_of_[job] = index;
  Touch(holdings_[index]);
  return true;
}

bool Holdings::Resize(int job, int gpus) {
  Holding& holding = holdings_[holding_of_[job]];
  if (holding.members.size() != 1 || gpus < 1) return false;
  if (gpus - holding.gpus > free()) return false;
  TakeMore(holding, gpus - holding.gpus);
  // The nodes with the least of it are left first.
  int over = holding.gpus - gpus;
  while (over > 0) {
    const auto least =
        std::min_element(holding.nodes.begin(), holding.nodes.end(),
                         [](const NodeShare& a, const NodeShare& b) { return a.gpus < b.gpus; });
    const int part = std::min(over, least->gpus);
    least->gpus -= part;
    over -= part;
    GiveBack({{.node = least->node, .gpus = part}});
    if (least->gpus == 0) holding.nodes.erase(least);
  }
  holding.gpus = gpus;
  Touch(holding);
  return true;
}

void Holdings::Leave(int job, int node) {
  Holding& holding = holdings_[holding_of_[job]];
  const auto share = std::find_if(holding.nodes.begin(), holding.nodes.end(),
                                  [&](const NodeShare& has) { return has.node == node; });
  holding.gpus -= share->gpus;
  GiveBack({*share});
  holding.nodes.erase(share);
  holding.type = PoolOfNode(holding.nodes.front().node);
  Touch(holding);
}

int Holdings::UsedOf(int type) const {
  int used = 0;
  for (size_t pool = 0; pool < pools_.size(); ++pool) {
    if (TypeOfPool(static_cast<int>(pool)) != type) continue;
    used += pools_[pool].gpus_working() - pools_[pool].free();
  }
  return used;
}

Holdings::Member* Holdings::Find(int job) {
  for (Member& member : holdings_[holding_of_[job]].members) {
    if (member.job == job) return &member;
  }
  return nullptr;
}

void Holdings::SetPace(int job, double pace) {
  Find(job)->corun.pace = pace;
  Touch(holdings_[holding_of_[job]]);
}

void Holdings::Release(int job) {
  const int index = holding_of_[job];
  Holding& holding = holdings_[index];
  holding.members.erase(std::find_if(holding.members.begin(), holding.members.end(),
                                     [&](const Member& member) { return member.job == job; }));
  holding_of_[job] = -1;
  nodes_of_jobs_[job] = 0;
  if (!holding.members.empty()) {
    Touch(holding);
    return;
  }
  GiveBack(holding.nodes);
  holding.nodes.clear();
  unused_.push_back(index);
}

std::vector<int> Holdings::JobsOn(int node) const {
  std::vector<int> jobs;
  for (const Holding& holding : holdings_) {
    const bool there = std::any_of(holding.nodes.begin(), holding.nodes.end(),
                                   [&](const NodeShare& share) { return share.node == node; });
    if (!there) continue;
    for (const Member& member : holding.members) jobs.push_back(member.job);
  }
  std::sort(jobs.begin(), jobs.end());
  return jobs;
}

void Holdings::NoteType(int type) { by_type_[type] = pools_[type].gpus_working(); }

void Holdings::Fail(int node) {
  const int type = PoolOfNode(node);
  pools_[type].Fail(node - first_node_[type]);
  free_by_node_[node] = 0;
  NoteType(type);
}

void Holdings::Repair(int node) {
  const int type = PoolOfNode(node);
  pools_[type].Repair(node - first_node_[type]);
  free_by_node_[node] = pools_[type].FreeOf(node - first_node_[type]);
  NoteType(type);
}

void Holdings::SetLink(int node, bool works) {
  nodes_[node].linked = works;
  TouchNode(node);
}

void Holdings::SetSpeed(int node, double speed) {
  nodes_[node].speed = speed;
  TouchNode(node);
}

void Holdings::Touch(const Holding& holding) {
  for (const Member& member : holding.members) {
    touched_.push_back(member.job);
    nodes_of_jobs_[member.job] = static_cast<int>(holding.nodes.size());
  }
}

void Holdings::TouchNode(int node) {
  for (const int job : JobsOn(node)) touched_.push_back(job);
}

bool Holdings::IsSpread(int job) const {
  const Holding& holding = holdings_[holding_of_[job]];
  const int per_node = pools_[holding.type].gpus_per_node();
  return static_cast<int>(holding.nodes.size()) > (holding.gpus + per_node - 1) / per_node;
}

int Holdings::Held(int job) const {
  return holding_of_[job] < 0 ? 0 : holdings_[holding_of_[job]].gpus;
}

int Holdings::TypeOf(int job) const {
  return holding_of_[job] < 0 ? -1 : TypeOfPool(holdings_[holding_of_[job]].type);
}

const Allocation& Holdings::NodesOf(int job) const { return holdings_[holding_of_[job]].nodes; }

double Holdings::RateOf(int job, double size_speed) const {
  const Holding& holding = holdings_[holding_of_[job]];
  double rate = size_speed;
  bool linked = true;
  double slowest = 1;
  int switches_first = 0, switches_last = 0;
  for (const NodeShare& share : holding.nodes) {
    linked &= nodes_[share.node].linked;
    slowest = std::min(slowest, nodes_[share.node].speed);
    if (cluster_.nodes_per_switch == 0) continue;
    const int on = share.node / cluster_.nodes_per_switch;
    const bool first = &share == holding.nodes.begin();
    switches_first = first ? on : std::min(switches_first, on);
    switches_last = first ? on : std::max(switches_last, on);
  }
  if (holding.nodes.size() > 1 && !linked) return 0;
  rate *= slowest;
  if (holding.nodes.size() > 1 && IsSpread(job)) rate *= cluster_.spread_speed;
  if (switches_last > switches_first) rate *= cluster_.switch_speed;
  if (host_matters()) rate *= HostSpeed(holding, job);
  return rate * TypeSpeed(holding, job) * CorunSpeed(holding, job);
}

// A gang goes as fast as its slowest part.
double Holdings::TypeSpeed(const Holding& holding, int job) const {
  int profile = -1;
  for (const Member& member : holding.members) {
    if (member.job == job) profile = member.corun.profile;
  }
  if (profile < 0 || profiles_.of[profile].type_speed.empty()) return 1;
  const std::vector<double>& by_type = profiles_.of[profile].type_speed;
  double slowest = sched::kNever;
  for (const NodeShare& share : holding.nodes) {
    const auto type = static_cast<size_t>(TypeOfPool(PoolOfNode(share.node)));
    slowest = std::min(slowest, type < by_type.size() ? by_type[type] : 1);
  }
  return slowest;
}

// As fast as on the node where it has least. Jobs that share GPUs divide what comes with them.
double Holdings::HostSpeed(const Holding& holding, int job) const {
  const sched::NodeSize size{.gpus = cluster_.gpus_per_node,
                             .cpus = cluster_.cpus_per_node,
                             .memory_gib = cluster_.memory_gib_per_node};
  double slowest = 1;
  for (const NodeShare& own : holding.nodes) {
    std::vector<sched::NodeDemand> demands;
    size_t place = 0;
    for (const int other : JobsOn(own.node)) {
      const Holding& on = holdings_[holding_of_[other]];
      if (other == job) place = demands.size();
      sched::NodeDemand& demand = demands.emplace_back();
      for (const NodeShare& share : on.nodes) {
        if (share.node == own.node) demand.gpus = share.gpus;
      }
      demand.gpus /= static_cast<double>(on.members.size());
      for (const Member& member : on.members) {
        if (member.job != other || member.corun.profile < 0) continue;
        demand.profile = &profiles_.of[member.corun.profile];
      }
    }
    const std::vector<sched::NodePart> parts =
        tuner_ == nullptr ? sched::ProportionalParts(demands, size) : tuner_->Divide(demands, size);
    slowest = std::min(slowest, sched::HostSpeed(demands[place], parts[place], size));
  }
  return slowest;
}

double Holdings::CorunSpeed(const Holding& holding, int job) const {
  const bool alone = holding.members.size() == 1 && holding.members[0].corun.pace >= 1;
  if (alone && profiles_.gpu_memory_gib <= 0) return 1;
  std::vector<sched::CorunMember> members;
  size_t own = 0;
  for (const Member& member : holding.members) {
    if (member.job == job) own = members.size();
    members.push_back(member.corun);
  }
  return sched::CorunSpeeds(members, profiles_, TypeOfPool(holding.type))[own];
}

}  // namespace tide::sim

// Grants of the coordinator carried out in an order that never takes more than there is.
#include "coordinator/node_agent.h"

#include <algorithm>

namespace tide::coordinator {
namespace {

constexpr int64_t kFirstLeaseNs = 15'000'000'000;  // until the coordinator has said its own
constexpr int64_t kBeatsALease = 3;

}  // namespace

std::vector<wire::Message> NodeAgent::Connected(int64_t now_ns) {
  connected_ = true;
  heard_ns_ = said_ns_ = now_ns;
  wire::Value::Array held;
  for (const auto& [key, part] : parts_) {
    held.push_back(wire::Value(
        wire::Value::Map{{"key", key}, {"revision", part.granted.revision}, {"runs", part.runs}}));
  }
  return {wire::Hello{.role = wire::Role::kNode}, wire::Join{.node = options_.node,
                                                             .devices = options_.devices,
                                                             .incarnation = options_.incarnation,
                                                             .held = wire::Value(std::move(held)),
                                                             .memory_gib = options_.memory_gib}};
}

std::vector<wire::Message> NodeAgent::OnMessage(const wire::Message& message, int64_t now_ns) {
  heard_ns_ = now_ns;
  if (const auto* lease = std::get_if<wire::Lease>(&message)) {
    lease_ns_ = lease->lease_ms * 1'000'000;
    return {};
  }
  const auto* allocation = std::get_if<wire::Allocation>(&message);
  if (allocation == nullptr) return {};
  const auto known = parts_.find(allocation->key);
  const bool ends = allocation->state == wire::AllocationState::kEnd;
  const bool newer =
      known == parts_.end() || allocation->revision >= known->second.granted.revision;
  // An end of what is not known here needs no part: there is nothing to let go.
  const bool over = ends && known == parts_.end();
  // A coordinator that has forgotten the job ends it without knowing the revision.
  if ((newer || ends) && !over) parts_[allocation->key].granted = *allocation;
  return {wire::AllocationAck{.key = allocation->key, .revision = allocation->revision}};
}

std::vector<wire::Message> NodeAgent::Tick(int64_t now_ns) {
  const int64_t lease_ns = lease_ns_ > 0 ? lease_ns_ : kFirstLeaseNs;
  if (!connected_ || now_ns - said_ns_ < lease_ns / kBeatsALease) return {};
  said_ns_ = now_ns;
  return {wire::Lease{.seq = ++seq_}};
}

bool NodeAgent::Silent(int64_t now_ns) const {
  const int64_t lease_ns = lease_ns_ > 0 ? lease_ns_ : kFirstLeaseNs;
  return connected_ && now_ns - heard_ns_ > lease_ns;
}

int64_t NodeAgent::running_devices() const {
  int64_t devices = 0;
  std::map<int64_t, int64_t> shared;
  for (const auto& [key, part] : parts_) {
    if (!part.runs) continue;
    if (part.holding == 0) devices += part.devices;
    if (part.holding != 0) shared[part.holding] = std::max(shared[part.holding], part.devices);
  }
  for (const auto& [holding, most] : shared) devices += most;
  return devices;
}

int64_t NodeAgent::Beyond(const std::string& key, int64_t holding, int64_t devices) const {
  int64_t others = 0;
  for (const auto& [other, part] : parts_) {
    if (part.runs && holding != 0 && part.holding == holding && other != key)
      others = std::max(others, part.devices);
  }
  return std::max<int64_t>(0, devices - others);
}

int64_t NodeAgent::running_devices(const std::string& key) const {
  const auto found = parts_.find(key);
  return found != parts_.end() && found->second.runs ? found->second.devices : 0;
}

NodeAgent::Step NodeAgent::StepOf(const std::string& key, const Part& part) {
  return {.key = key,
          .state = part.granted.state,
          .workers = part.granted.workers,
          .reason = part.granted.reason,
          .devices = part.granted.devices,
          .revision = part.granted.revision,
          .pace = part.granted.pace};
}

std::vector<NodeAgent::Step> NodeAgent::Running() const {
  std::vector<Step> running;
  for (const auto& [key, part] : parts_) {
    const bool runs = part.runs && part.granted.state == wire::AllocationState::kRun;
    if (runs && part.granted.devices <= part.devices) running.push_back(StepOf(key, part));
  }
  return running;
}

std::vector<NodeAgent::Step> NodeAgent::NextSteps() const {
  std::vector<Step> steps;
  const auto add = [&](const std::string& key, const Part& part) {
    steps.push_back(StepOf(key, part));
  };
  for (const auto& [key, part] : parts_) {
    const bool run = part.granted.state == wire::AllocationState::kRun;
    const bool over = part.granted.state == wire::AllocationState::kEnd;
    if (over || (!run && part.runs)) add(key, part);
  }
  int64_t used = running_devices();
  for (const auto& [key, part] : parts_) {
    if (part.granted.state != wire::AllocationState::kRun) continue;
    const wire::Allocation& granted = part.granted;
    const int64_t devices = part.runs ? Beyond(key, part.holding, part.devices) : 0;
    const int64_t wanted = Beyond(key, granted.holding, granted.devices);
    const bool same = part.runs && part.devices == granted.devices &&
                      part.workers == granted.workers && part.holding == granted.holding;
    if (same || used - devices + wanted > options_.devices) continue;
    // What it gives back counts when it has been given back.
    used += std::max<int64_t>(0, wanted - devices);
    add(key, part);
  }
  return steps;
}

void NodeAgent::Took(const std::string& key, wire::AllocationState state) {
  const auto found = parts_.find(key);
  if (found == parts_.end()) return;
  if (state == wire::AllocationState::kEnd) {
    parts_.erase(found);
    return;
  }
  Part& part = found->second;
  part.runs = state == wire::AllocationState::kRun;
  part.devices = part.runs ? part.granted.devices : 0;
  part.workers = part.runs ? part.granted.workers : 0;
  part.holding = part.runs ? part.granted.holding : 0;
}

bool NodeAgent::MayRun(const std::string& key) const {
  const auto found = parts_.find(key);
  return found == parts_.end() || found->second.runs;
}

}  // namespace tide::coordinator

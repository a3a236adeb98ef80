// Nodes are filed by how many devices they have free.
#include "coordinator/cluster_devices.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tide::coordinator {

NodeIndex ClusterDevices::IndexOf(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? NodeIndex() : found->second;
}

const ClusterDevices::Node* ClusterDevices::Find(const std::string& name) const {
  const NodeIndex index = IndexOf(name);
  return index.value() < 0 ? nullptr : &nodes_[index.value()];
}

// What a node adds to the sums and to the index by free devices.
void ClusterDevices::Count(const Node& node, int sign) {
  free_ += sign * node.free();
  working_ += node.works ? sign * node.devices : 0;
  withheld_ += sign * node.withheld();
  draining_ += node.drains ? sign : 0;
  if (node.free() <= 0) return;
  const std::pair entry(node.free(), NodeIndex(static_cast<int>(&node - nodes_.data())));
  sign > 0 ? (void)by_free_.insert(entry) : (void)by_free_.erase(entry);
}

NodeIndex ClusterDevices::Set(const std::string& name, int devices, bool works) {
  const auto [entry, is_new] =
      by_name_.try_emplace(name, NodeIndex(static_cast<int>(nodes_.size())));
  if (is_new) nodes_.push_back({.name = name});
  Node& node = nodes_[entry->second.value()];
  Count(node, -1);
  node.devices = devices;
  node.works = works;
  Count(node, +1);
  return entry->second;
}

void ClusterDevices::SetDrains(NodeIndex index, bool drains) {
  Node& node = nodes_[index.value()];
  Count(node, -1);
  node.drains = drains;
  Count(node, +1);
}

// A node that failed keeps count of what is given back, so that it is right when it works again.
void ClusterDevices::Use(NodeIndex index, int devices) {
  Node& node = nodes_[index.value()];
  Count(node, -1);
  node.used += devices;
  Count(node, +1);
}

void ClusterDevices::TakeFrom(NodeIndex node, int devices, Placement& placement) {
  Use(node, devices);
  placement.push_back({.node = node, .devices = devices});
}

Placement ClusterDevices::Take(int devices, const Placement& before) {
  int had = 0;
  bool room = true;
  for (const DeviceShare& share : before) {
    had += share.devices;
    room = room && nodes_[share.node.value()].free() >= share.devices;
  }
  if (!room || had != devices) return TakeOn(devices, [](NodeIndex) { return true; });
  Placement placement;
  for (const DeviceShare& share : before) {
    if (share.devices > 0) TakeFrom(share.node, share.devices, placement);
  }
  return placement;
}

Placement ClusterDevices::TakeOn(int devices, const Allowed& allowed) {
  const auto fits = [&](const auto& entry) { return allowed(entry.second); };
  Placement placement;
  while (devices > 0) {
    const auto whole =
        std::find_if(by_free_.lower_bound({devices, NodeIndex()}), by_free_.end(), fits);
    const bool is_whole = whole != by_free_.end();
    const auto [most, node] =
        is_whole ? *whole : *std::find_if(by_free_.rbegin(), by_free_.rend(), fits);
    const int share = std::min(devices, most);
    TakeFrom(node, share, placement);
    devices -= share;
  }
  return placement;
}

int ClusterDevices::FreeOn(const Allowed& allowed) const {
  int free = 0;
  for (const auto& [devices, node] : by_free_) free += allowed(node) ? devices : 0;
  return free;
}

void ClusterDevices::Give(const Placement& placement) {
  for (const DeviceShare& share : placement) Use(share.node, -share.devices);
}

void ClusterDevices::AddOne(Placement& placement) {
  for (DeviceShare& share : placement) {
    if (nodes_[share.node.value()].free() == 0) continue;
    Use(share.node, 1);
    ++share.devices;
    return;
  }
  TakeFrom(by_free_.begin()->second, 1, placement);  // the fullest
}

void ClusterDevices::RemoveOne(Placement& placement, NodeIndex from) {
  const auto share = std::find_if(placement.rbegin(), placement.rend(),
                                  [&](const DeviceShare& each) { return each.node == from; });
  Use(from, -1);
  if (--share->devices == 0) placement.erase(std::next(share).base());
}

std::string ClusterDevices::Words(const Placement& placement) const {
  constexpr size_t kLengthMax = 300;
  std::string text;
  for (const DeviceShare& share : placement) {
    if (share.devices == 0) continue;
    if (text.size() > kLengthMax) return text + ", ...";
    absl::StrAppend(&text, text.empty() ? "" : ", ", share.devices, " on ",
                    nodes_[share.node.value()].name);
  }
  return text;
}

}  // namespace tide::coordinator

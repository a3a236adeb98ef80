// Nodes are filed by how many devices they have free.
#include "coordinator/cluster_devices.h"

#include <algorithm>

namespace tide::coordinator {

NodeIndex ClusterDevices::IndexOf(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? NodeIndex() : found->second;
}

const ClusterDevices::Node* ClusterDevices::Find(const std::string& name) const {
  const NodeIndex index = IndexOf(name);
  return index.value() < 0 ? nullptr : &nodes_[index.value()];
}

NodeIndex ClusterDevices::Set(const std::string& name, int devices, bool works) {
  const auto [entry, is_new] =
      by_name_.try_emplace(name, NodeIndex(static_cast<int>(nodes_.size())));
  if (is_new) nodes_.push_back({.name = name});
  const NodeIndex index = entry->second;
  Node& node = nodes_[index.value()];
  by_free_.erase({node.free(), index});
  free_ -= node.free();
  working_ -= node.works ? node.devices : 0;
  node.devices = devices;
  node.works = works;
  free_ += node.free();
  working_ += node.works ? node.devices : 0;
  if (node.free() > 0) by_free_.insert({node.free(), index});
  return index;
}

// A node that failed keeps count of what is given back, so that it is right when it works again.
void ClusterDevices::Use(NodeIndex index, int devices) {
  Node& node = nodes_[index.value()];
  by_free_.erase({node.free(), index});
  free_ -= node.free();
  node.used += devices;
  free_ += node.free();
  if (node.free() > 0) by_free_.insert({node.free(), index});
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
  Placement placement;
  if (room && had == devices) {
    for (const DeviceShare& share : before) TakeFrom(share.node, share.devices, placement);
    return placement;
  }
  while (devices > 0) {
    const auto whole = by_free_.lower_bound({devices, NodeIndex()});
    const auto [most, emptiest] = *by_free_.rbegin();
    const NodeIndex node = whole != by_free_.end() ? whole->second : emptiest;
    const int share = std::min(devices, whole != by_free_.end() ? devices : most);
    TakeFrom(node, share, placement);
    devices -= share;
  }
  return placement;
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

void ClusterDevices::RemoveOne(Placement& placement) {
  DeviceShare& last = placement.back();
  Use(last.node, -1);
  if (--last.devices == 0) placement.pop_back();
}

}  // namespace tide::coordinator

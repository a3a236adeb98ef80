// Keys are derived from a placement, so that removing finds what adding has filed.
#include "coordinator/placement_index.h"

namespace tide::coordinator {
namespace {

int Devices(const Placement& placement) {
  int sum = 0;
  for (const DeviceShare& share : placement) sum += share.devices;
  return sum;
}

}  // namespace

void PlacementIndex::Add(const PlacedJob& placed) {
  for (const DeviceShare& share : placed.placement) {
    const size_t node = static_cast<size_t>(share.node.value());
    if (by_node_.size() <= node) by_node_.resize(node + 1);
    by_node_[node].insert(placed.job);
  }
  if (placed.devices_max <= placed.gang) return;
  const int devices = Devices(placed.placement);
  if (devices > placed.gang) extra_.insert({placed.gang - devices, placed.job});
  if (devices < placed.devices_max)
    growable_.insert({static_cast<double>(devices) / placed.gang, placed.job});
}

void PlacementIndex::Remove(const PlacedJob& placed) {
  for (const DeviceShare& share : placed.placement)
    by_node_[static_cast<size_t>(share.node.value())].erase(placed.job);
  if (placed.devices_max <= placed.gang) return;
  const int devices = Devices(placed.placement);
  extra_.erase({placed.gang - devices, placed.job});
  growable_.erase({static_cast<double>(devices) / placed.gang, placed.job});
}

const std::set<JobIndex>& PlacementIndex::On(NodeIndex node) const {
  static const std::set<JobIndex> kNobody;
  const size_t index = static_cast<size_t>(node.value());
  return index < by_node_.size() ? by_node_[index] : kNobody;
}

}  // namespace tide::coordinator

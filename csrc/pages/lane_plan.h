// Which device pages go to the scratch of a lane at a boundary, and which leave it: a pure function
// of where live blocks lie.
#pragma once

#include <unordered_map>
#include <vector>

#include "base/bytes.h"
#include "pages/device_pages.h"

namespace tide::pages {

struct AddressRange {
  cuda::DevicePointer at = 0;
  Bytes size;
};

/// What the framework says of the pool that a routed iteration allocated from.
struct LanePool {
  std::vector<AddressRange> segments;  // mapped addresses of the pool
  std::vector<AddressRange> live;      // blocks in them that are still in use
};

struct LanePlan {
  std::vector<cuda::Handle> to_lane;    // private pages without a live block
  std::vector<cuda::Handle> from_lane;  // lane pages with one, and those in no segment of the pool
};

/// A page that had to leave the lane stays private until it was free at so many boundaries in a
/// row: where the batch lies in turn on two pages, both stay.
inline constexpr int kStayPrivate = 8;

/// `staying` counts down for such pages; it is brought up to date, and forgets pages that are gone.
/// Deterministic.
LanePlan PlanLane(const std::vector<DevicePage>& pages, const LanePool& pool,
                  std::unordered_map<cuda::Handle, int>& staying);

}  // namespace tide::pages

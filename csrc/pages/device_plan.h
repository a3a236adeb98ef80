// Which device pages leave when the budget shrinks: a pure function of where the cold tensors lie.
#pragma once

#include <string>
#include <vector>

#include "base/bytes.h"
#include "pages/device_pages.h"

namespace tide::pages {

/// Addresses of tensors that an iteration touches rarely, coldest first; optimizer state mostly.
struct ColdRange {
  cuda::DevicePointer at = 0;
  Bytes size;
};

struct DevicePlan {
  std::vector<cuda::Handle> tokens;  // in the order in which they should leave
  Bytes found;
  Bytes short_by;
  std::string reason;
};

/// Chooses pages of at least `need` bytes: those that cold ranges cover whole, then those they
/// touch, then, only when `any`, the rest from the highest address down. Pages that are away, not
/// mapped or shared are never chosen. Deterministic.
DevicePlan PlanDeviceDemotion(const std::vector<DevicePage>& pages,
                              const std::vector<ColdRange>& cold, Bytes need, bool any);

/// Which pages lie whole within the ranges: nothing else can be on them, now or later. PyTorch's
/// blocks are multiples of 512 bytes, so what is between two tensors' ends belongs to the first. A
/// pure function; indices into `pages`.
std::vector<size_t> PagesWithin(const std::vector<DevicePage>& pages,
                                const std::vector<ColdRange>& ranges);

/// Puts pages in the order in which they return to a device: those that must be there before
/// anything runs, then those that lie whole within `layers` and `last`, by which of the layers they
/// hold first, and those without a layer at the end. Returns how many must be there before. A pure
/// function; what is equal stays in its order.
size_t PlanReturn(std::vector<DevicePage>* pages, const std::vector<ColdRange>& layers,
                  const std::vector<ColdRange>& last);

}  // namespace tide::pages

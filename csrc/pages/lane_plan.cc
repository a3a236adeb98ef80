#include "pages/lane_plan.h"

#include <algorithm>

namespace tide::pages {
namespace {

/// Sorted ranges that do not overlap.
class Ranges {
 public:
  explicit Ranges(std::vector<AddressRange> ranges) {
    std::sort(ranges.begin(), ranges.end(),
              [](const AddressRange& a, const AddressRange& b) { return a.at < b.at; });
    for (const AddressRange& range : ranges) {
      if (range.size <= Bytes(0)) continue;
      if (!ranges_.empty() && End(ranges_.back()) >= range.at) {
        const cuda::DevicePointer end = std::max(End(ranges_.back()), End(range));
        ranges_.back().size = Bytes(static_cast<int64_t>(end - ranges_.back().at));
      } else {
        ranges_.push_back(range);
      }
    }
  }
  bool Touch(const DevicePage& page) const {
    const auto it = FirstEndingAfter(page.address);
    return it != ranges_.end() && it->at < page.address + page.size.size();
  }
  bool Contain(const DevicePage& page) const {
    const auto it = FirstEndingAfter(page.address);
    return it != ranges_.end() && it->at <= page.address &&
           End(*it) >= page.address + page.size.size();
  }

 private:
  static cuda::DevicePointer End(const AddressRange& range) { return range.at + range.size.size(); }
  std::vector<AddressRange>::const_iterator FirstEndingAfter(cuda::DevicePointer at) const {
    return std::partition_point(ranges_.begin(), ranges_.end(),
                                [at](const AddressRange& range) { return End(range) <= at; });
  }
  std::vector<AddressRange> ranges_;
};

}  // namespace

LanePlan PlanLane(const std::vector<DevicePage>& pages, const LanePool& pool,
                  std::unordered_map<cuda::Handle, int>& staying) {
  const Ranges segments(pool.segments), live(pool.live);
  LanePlan plan;
  std::unordered_map<cuda::Handle, int> still;
  for (const DevicePage& page : pages) {
    if (page.address == 0 || page.pinned) continue;
    const bool laned = page.tier == DeviceTier::kLane;
    if (!laned && page.tier != DeviceTier::kDevice) continue;
    const bool free = segments.Contain(page) && !live.Touch(page);
    if (laned) {
      if (free) continue;
      plan.from_lane.push_back(page.token);
      still[page.token] = kStayPrivate;
      continue;
    }
    const auto stays = staying.find(page.token);
    if (stays == staying.end()) {
      if (free) plan.to_lane.push_back(page.token);
    } else if (!free) {
      still[page.token] = kStayPrivate;
    } else if (stays->second > 1) {
      still[page.token] = stays->second - 1;
    } else {
      plan.to_lane.push_back(page.token);
    }
  }
  staying = std::move(still);
  return plan;
}

}  // namespace tide::pages

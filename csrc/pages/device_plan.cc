#include "pages/device_plan.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "absl/strings/str_cat.h"

namespace tide::pages {
namespace {

struct Candidate {
  const DevicePage* page;
  Bytes cold;        // bytes of it that are in a cold range
  size_t rank = ~0;  // of the coldest range that touches it
};

Candidate Judge(const DevicePage& page, const std::vector<ColdRange>& cold) {
  Candidate candidate{&page, Bytes(0)};
  const cuda::DevicePointer end = page.address + page.size.size();
  for (size_t i = 0; i < cold.size(); ++i) {
    const cuda::DevicePointer first = std::max(page.address, cold[i].at);
    const cuda::DevicePointer last = std::min(end, cold[i].at + cold[i].size.size());
    if (first >= last) continue;
    candidate.cold += Bytes(static_cast<int64_t>(last - first));
    candidate.rank = std::min(candidate.rank, i);
  }
  return candidate;
}

}  // namespace

DevicePlan PlanDeviceDemotion(const std::vector<DevicePage>& pages,
                              const std::vector<ColdRange>& cold, Bytes need, bool any) {
  std::vector<Candidate> candidates;
  for (const DevicePage& page : pages) {
    if (page.tier != DeviceTier::kDevice || page.pinned || page.address == 0) continue;
    const Candidate candidate = Judge(page, cold);
    if (candidate.cold > Bytes(0) || any) candidates.push_back(candidate);
  }
  auto order = [](const Candidate& c) {
    const bool whole = c.cold >= c.page->size;
    return std::tuple(whole ? 0 : c.cold > Bytes(0) ? 1 : 2, c.rank, ~c.page->address);
  };
  std::sort(candidates.begin(), candidates.end(),
            [&](const Candidate& a, const Candidate& b) { return order(a) < order(b); });
  DevicePlan plan;
  Bytes cold_found;
  for (const Candidate& candidate : candidates) {
    if (plan.found >= need) break;
    plan.tokens.push_back(candidate.page->token);
    plan.found += candidate.page->size;
    if (candidate.cold > Bytes(0)) cold_found += candidate.page->size;
  }
  plan.short_by = std::max(need - plan.found, Bytes(0));
  plan.reason = absl::StrCat(FormatBytes(plan.found), " of ", FormatBytes(need),
                             " found: ", FormatBytes(cold_found), " with cold tensors, ",
                             FormatBytes(plan.found - cold_found), " others");
  return plan;
}

std::vector<size_t> PagesWithin(const std::vector<DevicePage>& pages,
                                const std::vector<ColdRange>& ranges) {
  constexpr uint64_t kBlock = 512;
  std::vector<std::pair<uint64_t, uint64_t>> covered;
  for (const ColdRange& range : ranges) {
    const uint64_t end = range.at + range.size.size();
    covered.emplace_back(range.at, (end + kBlock - 1) / kBlock * kBlock);
  }
  std::sort(covered.begin(), covered.end());
  std::vector<std::pair<uint64_t, uint64_t>> runs;
  for (const auto& [begin, end] : covered) {
    if (!runs.empty() && begin <= runs.back().second) {
      runs.back().second = std::max(runs.back().second, end);
    } else {
      runs.emplace_back(begin, end);
    }
  }
  std::vector<size_t> within;
  for (size_t i = 0; i < pages.size(); ++i) {
    auto after = std::upper_bound(
        runs.begin(), runs.end(), pages[i].address,
        [](uint64_t at, const std::pair<uint64_t, uint64_t>& run) { return at < run.first; });
    if (pages[i].address == 0 || after == runs.begin()) continue;
    --after;
    if (pages[i].address + pages[i].size.size() <= after->second) within.push_back(i);
  }
  return within;
}

size_t PlanReturn(std::vector<DevicePage>* pages, const std::vector<ColdRange>& layers,
                  const std::vector<ColdRange>& last) {
  if (layers.empty() && last.empty()) return pages->size();
  std::map<cuda::DevicePointer, size_t> by_address;  // position of the layer that begins there
  for (size_t i = 0; i < layers.size(); ++i) by_address.emplace(layers[i].at, i);
  const auto first_layer = [&](const DevicePage& page) {
    size_t first = layers.size();
    auto it = by_address.lower_bound(page.address + page.size.size());
    while (it != by_address.begin()) {
      const auto& [at, position] = *--it;
      if (at + layers[position].size.size() <= page.address) break;  // ranges do not overlap
      first = std::min(first, position);
    }
    return first;
  };
  std::vector<ColdRange> late = layers;
  late.insert(late.end(), last.begin(), last.end());
  std::vector<std::pair<size_t, size_t>> order(pages->size());  // rank, index
  for (size_t i = 0; i < pages->size(); ++i) order[i] = {0, i};
  const std::vector<size_t> within = PagesWithin(*pages, late);
  for (size_t i : within) order[i].first = 1 + first_layer((*pages)[i]);
  std::sort(order.begin(), order.end());
  std::vector<DevicePage> sorted;
  sorted.reserve(pages->size());
  for (const auto& [rank, index] : order) sorted.push_back((*pages)[index]);
  *pages = std::move(sorted);
  return pages->size() - within.size();
}

}  // namespace tide::pages

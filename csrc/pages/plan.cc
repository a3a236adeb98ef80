#include "pages/plan.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"

namespace tide::pages {
namespace {

constexpr int kTimeSlots = 256;

// How many streaming pages are in use in each part of the iteration.
class Occupancy {
 public:
  explicit Occupancy(int32_t ticks) : ticks_(std::max(ticks, 1)) {}

  void Add(const PageUse& use, int count) {
    ForEachSlot(use, [&](int slot) { in_use_[slot] += count; });
  }
  /// Most at one time while `use` is visited.
  int Most(const PageUse& use) const {
    int most = 0;
    ForEachSlot(use, [&](int slot) { most = std::max(most, in_use_[slot]); });
    return most;
  }

 private:
  template <typename Function>
  void ForEachSlot(const PageUse& use, Function function) const {
    for (int i = 0; i < use.visits_known(); ++i) {
      const int last = Slot(use.visits[i].last);
      for (int slot = Slot(use.visits[i].first); slot <= last; ++slot) function(slot);
    }
  }
  int Slot(int32_t tick) const {
    const int64_t slot = int64_t{tick} * kTimeSlots / ticks_;
    return static_cast<int>(std::clamp<int64_t>(slot, 0, kTimeSlots - 1));
  }

  const int64_t ticks_;
  std::array<int, kTimeSlots> in_use_{};
};

// Reorders pages with equally many visits: always next is one whose time of use has the fewest
// streaming pages already.
void SpreadOverTime(std::vector<PageUse>::iterator begin, std::vector<PageUse>::iterator end,
                    Occupancy& occupancy) {
  // Pages that are visited together stand together, in the order in which they were sorted.
  std::vector<std::pair<size_t, size_t>> groups;  // [first, last) of `sorted`
  const std::vector<PageUse> sorted(begin, end);
  for (size_t i = 0; i < sorted.size(); ++i) {
    if (i == 0 || sorted[i].visits != sorted[i - 1].visits) groups.push_back({i, i});
    groups.back().second = i + 1;
  }
  const size_t chunk = sorted.size() / 512 + 1;
  for (auto next = begin; next != end;) {
    const auto least = std::min_element(groups.begin(), groups.end(), [&](auto a, auto b) {
      const bool a_empty = a.first == a.second, b_empty = b.first == b.second;
      if (a_empty || b_empty) return !a_empty;
      return occupancy.Most(sorted[a.first]) < occupancy.Most(sorted[b.first]);
    });
    for (size_t i = 0; i < chunk && least->first < least->second; ++i) {
      occupancy.Add(sorted[least->first], 1);
      *next++ = sorted[least->first++];
    }
  }
}

}  // namespace

DemotionPlan PlanDemotion(std::vector<PageUse> candidates, PageCount need,
                          const std::vector<PageUse>& streaming, const DemotionOptions& options) {
  std::erase_if(candidates, [&](const PageUse& use) { return use.bursts > options.visits_max; });
  std::sort(candidates.begin(), candidates.end(), [](const PageUse& a, const PageUse& b) {
    if (a.bursts != b.bursts) return a.bursts < b.bursts;
    if (a.first_tick != b.first_tick) return a.first_tick > b.first_tick;
    return a.page.value() > b.page.value();
  });
  int32_t ticks = 0;
  for (const PageUse& use : candidates) ticks = std::max(ticks, use.last_tick + 1);
  for (const PageUse& use : streaming) ticks = std::max(ticks, use.last_tick + 1);
  Occupancy occupancy(ticks);
  for (const PageUse& use : streaming) occupancy.Add(use, 1);
  for (auto begin = candidates.begin(); begin != candidates.end();) {
    const auto end = std::find_if(begin, candidates.end(),
                                  [&](const PageUse& use) { return use.bursts != begin->bursts; });
    if (begin->bursts > 0) SpreadOverTime(begin, end, occupancy);
    begin = end;
  }
  DemotionPlan plan;
  int64_t untouched = 0;
  for (const PageUse& use : candidates) {
    if (static_cast<int64_t>(plan.pages.size()) >= need.value()) break;
    plan.pages.push_back(use.page);
    untouched += use.bursts == 0;
  }
  const int64_t found = static_cast<int64_t>(plan.pages.size());
  plan.short_by = PageCount(std::max<int64_t>(0, need.value() - found));
  plan.reason =
      absl::StrCat(FormatBytes(PageCount(found).bytes()), " of ", FormatBytes(need.bytes()),
                   " found: ", FormatBytes(PageCount(untouched).bytes()), " cold, ",
                   FormatBytes(PageCount(found - untouched).bytes()), " touched rarely");
  return plan;
}

PageCount StreamingDepth(const std::vector<PageUse>& pages) {
  std::vector<std::pair<int32_t, int>> changes;  // (tick, +1 or -1)
  for (const PageUse& use : pages) {
    for (int i = 0; i < use.visits_known(); ++i) {
      changes.push_back({use.visits[i].first, 1});
      changes.push_back({use.visits[i].last + 1, -1});
    }
  }
  std::sort(changes.begin(), changes.end());  // at one tick, those that end come first
  int64_t depth = 0, most = 0;
  for (const auto& [tick, change] : changes) most = std::max(most, depth += change);
  return PageCount(most);
}

int32_t TicksToNextUse(const PageUse& use, int32_t tick, int32_t length) {
  if (use.visits_known() == 0) return std::numeric_limits<int32_t>::max();
  for (int i = 0; i < use.visits_known(); ++i) {
    if (use.visits[i].last >= tick) return std::max(0, use.visits[i].first - tick);
  }
  return std::max(0, length - tick) + use.visits[0].first;
}

int64_t BeladyTransfers(const std::vector<PageIndex>& trace, int64_t capacity, int iterations) {
  if (capacity <= 0) return static_cast<int64_t>(trace.size());
  const int64_t length = static_cast<int64_t>(trace.size());
  const int64_t total = length * iterations;
  absl::flat_hash_map<PageIndex, std::vector<int64_t>> uses;
  for (int64_t i = 0; i < total; ++i) uses[trace[i % length]].push_back(i);
  auto next_use = [&](PageIndex page, int64_t now) {
    const std::vector<int64_t>& list = uses[page];
    auto it = std::upper_bound(list.begin(), list.end(), now);
    return it == list.end() ? std::numeric_limits<int64_t>::max() : *it;
  };
  absl::flat_hash_set<PageIndex> resident;
  int64_t last_iteration = 0;
  for (int64_t i = 0; i < total; ++i) {
    if (resident.contains(trace[i % length])) continue;
    last_iteration += i >= total - length;
    if (static_cast<int64_t>(resident.size()) >= capacity) {
      PageIndex victim;
      int64_t farthest = -1;
      for (PageIndex page : resident) {
        const int64_t next = next_use(page, i);
        if (next > farthest) {
          farthest = next;
          victim = page;
        }
      }
      resident.erase(victim);
    }
    resident.insert(trace[i % length]);
  }
  return last_iteration;
}

int64_t PlannedTransfers(const std::vector<PageIndex>& trace, const DemotionPlan& plan) {
  const absl::flat_hash_set<PageIndex> out(plan.pages.begin(), plan.pages.end());
  int64_t transfers = 0;
  for (size_t i = 0; i < trace.size(); ++i) {
    const bool same_visit = i > 0 && trace[i - 1] == trace[i];
    transfers += out.contains(trace[i]) && !same_visit;
  }
  return transfers;
}

}  // namespace tide::pages

#include "pages/plan.h"

#include <algorithm>
#include <limits>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"

namespace tide::pages {

DemotionPlan PlanDemotion(std::vector<PageUse> candidates, PageCount need,
                          const DemotionOptions& options) {
  std::erase_if(candidates, [&](const PageUse& use) { return use.bursts > options.visits_max; });
  std::sort(candidates.begin(), candidates.end(), [](const PageUse& a, const PageUse& b) {
    if (a.bursts != b.bursts) return a.bursts < b.bursts;
    if (a.first_tick != b.first_tick) return a.first_tick > b.first_tick;
    return a.page.value() > b.page.value();
  });
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

#include "runtime/touch_order.h"

#include <algorithm>
#include <utility>

namespace tide::runtime {

void TouchOrder::Watch(const std::vector<pages::ColdRange>& ranges) {
  absl::MutexLock lock(&mu_);
  watched_.clear();
  touched_ = 0;
  for (const pages::ColdRange& range : ranges) watched_[range.at] = {range.size, 0};
  watching_.store(!watched_.empty(), std::memory_order_relaxed);
}

void TouchOrder::Touch(pages::cuda::DevicePointer at) {
  if (!watching()) return;
  absl::MutexLock lock(&mu_);
  const auto it = watched_.find(at);
  if (it != watched_.end() && it->second.position == 0) it->second.position = ++touched_;
}

bool TouchOrder::EndForward() {
  if (!watching()) return false;
  absl::MutexLock lock(&mu_);
  if (!watching_.exchange(false, std::memory_order_relaxed)) return false;
  std::erase_if(watched_, [](const auto& range) { return range.second.position == 0; });
  if (!watched_.empty()) learnt_ = std::move(watched_);
  watched_.clear();
  return true;
}

void TouchOrder::Forget() {
  if (!watching()) return;
  absl::MutexLock lock(&mu_);
  watching_.store(false, std::memory_order_relaxed);
  watched_.clear();
}

std::vector<pages::ColdRange> TouchOrder::Ordered(
    const std::vector<pages::ColdRange>& ranges) const {
  absl::MutexLock lock(&mu_);
  std::vector<std::pair<int64_t, pages::ColdRange>> found;
  for (const pages::ColdRange& range : ranges) {
    const auto it = learnt_.find(range.at);
    if (it != learnt_.end() && it->second.size == range.size)
      found.emplace_back(it->second.position, range);
  }
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<pages::ColdRange> ordered;
  for (const auto& [position, range] : found) ordered.push_back(range);
  return ordered;
}

}  // namespace tide::runtime

// Buckets by size of gang, kept sorted; an empty one stays for the next gang of its size.
#include "sched/gang_queue.h"

#include <algorithm>

namespace tide::sched {
namespace {

template <typename Buckets>
auto Find(Buckets& buckets, int gpus) {
  return std::lower_bound(buckets.begin(), buckets.end(), gpus,
                          [](const auto& bucket, int wanted) { return bucket.gpus < wanted; });
}

}  // namespace

void GangQueue::Push(const GangEntry& entry) {
  auto bucket = Find(buckets_, entry.gpus);
  if (bucket == buckets_.end() || bucket->gpus != entry.gpus) {
    bucket = buckets_.insert(bucket, Bucket{.gpus = entry.gpus});
  }
  if (bucket->entries.insert(entry).second) ++size_;
}

void GangQueue::Erase(const GangEntry& entry) {
  auto bucket = Find(buckets_, entry.gpus);
  if (bucket == buckets_.end() || bucket->gpus != entry.gpus) return;
  size_ -= static_cast<int64_t>(bucket->entries.erase(entry));
}

const GangEntry* GangQueue::First(int free) const {
  const GangEntry* first = nullptr;
  for (const Bucket& bucket : buckets_) {
    if (bucket.gpus > free) break;
    if (bucket.entries.empty()) continue;
    const GangEntry& head = *bucket.entries.begin();
    if (first == nullptr || head < *first) first = &head;
  }
  return first;
}

}  // namespace tide::sched

// Waiting gangs in order, found by how many GPUs are free without a look at those that do not fit.
#pragma once

#include <compare>
#include <cstdint>
#include <vector>

#include "absl/container/btree_set.h"
#include "sched/cluster_policy.h"

namespace tide::sched {

/// Smaller key first, then smaller rank; ranks of one queue differ.
struct GangEntry {
  double key = 0;
  int64_t rank = 0;
  JobIndex job;
  int gpus = 0;

  void VisitFields(FieldArchive& archive) { archive(key, rank, job, gpus); }
  friend bool operator<(const GangEntry& a, const GangEntry& b) {
    return a.key != b.key ? a.key < b.key : a.rank < b.rank;
  }
};

/// One ordered set for each size of gang: the first that fits is the least of a few heads. Clusters
/// see about twenty sizes, so a look costs twenty comparisons however many jobs wait.
class GangQueue {
 public:
  void Push(const GangEntry& entry);
  /// Removes an entry that is here.
  void Erase(const GangEntry& entry);
  /// The first in order of those with at most `free` GPUs; nullptr when none fits. Valid until the
  /// next change.
  const GangEntry* First(int free) const;
  /// Every entry, by size of gang and then in order.
  template <typename Look>
  void ForEach(Look look) const {
    for (const Bucket& bucket : buckets_) {
      for (const GangEntry& entry : bucket.entries) look(entry);
    }
  }
  bool empty() const { return size_ == 0; }
  int64_t size() const { return size_; }
  void VisitFields(FieldArchive& archive) { archive(buckets_, size_); }

 private:
  struct Bucket {
    int gpus;
    absl::btree_set<GangEntry> entries;
    void VisitFields(FieldArchive& archive) { archive(gpus, entries); }
  };
  std::vector<Bucket> buckets_;  // by size of gang
  int64_t size_ = 0;
};

}  // namespace tide::sched

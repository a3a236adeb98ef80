// When running jobs end: a heap in which an old entry is passed over rather than searched for.
#pragma once

#include <algorithm>
#include <vector>

#include "sched/cluster_policy.h"

namespace tide::sim {

class EndTimes {
 public:
  explicit EndTimes(size_t jobs) : version_(jobs, 0) {}

  /// Replaces the job's end, if it had one.
  void Set(sched::JobIndex job, double end_s) {
    heap_.push_back({.end_s = end_s, .job = job, .version = ++version_[job.value()]});
    std::push_heap(heap_.begin(), heap_.end(), Later);
  }
  void Clear(sched::JobIndex job) { ++version_[job.value()]; }
  /// kNever when nothing runs.
  double NextTime() {
    while (!heap_.empty() && heap_.front().version != version_[heap_.front().job.value()]) Drop();
    return heap_.empty() ? sched::kNever : heap_.front().end_s;
  }
  /// The job that ends first, by order of submission among equals. After a NextTime that is a time.
  sched::JobIndex Pop() {
    const sched::JobIndex job = heap_.front().job;
    Clear(job);
    Drop();
    return job;
  }

 private:
  struct Entry {
    double end_s;
    sched::JobIndex job;
    uint32_t version;
  };
  static bool Later(const Entry& a, const Entry& b) {
    return a.end_s != b.end_s ? a.end_s > b.end_s : a.job > b.job;
  }
  void Drop() {
    std::pop_heap(heap_.begin(), heap_.end(), Later);
    heap_.pop_back();
  }

  std::vector<Entry> heap_;
  std::vector<uint32_t> version_;  // of each job's entry that counts
};

}  // namespace tide::sim

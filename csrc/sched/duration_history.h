// What finished jobs say about those to come: the mean duration of the like.
#pragma once

#include "absl/container/flat_hash_map.h"
#include "sched/cluster_policy.h"

namespace tide::sched {

/// Means over what was booked. Durations of jobs that have not ended are never looked at.
class DurationHistory {
 public:
  void Book(const JobView& ended) {
    by_group_[ended.group].Add(ended.duration_s);
    by_user_[ended.user].Add(ended.duration_s);
    all_.Add(ended.duration_s);
  }
  /// Of the same group (user, model and size), else of the user, else of all; 0 before the first.
  double Predict(const JobView& job) const {
    if (const auto found = by_group_.find(job.group); found != by_group_.end()) {
      return found->second.Mean();
    }
    if (const auto found = by_user_.find(job.user); found != by_user_.end()) {
      return found->second.Mean();
    }
    return all_.Mean();
  }
  void VisitFields(FieldArchive& archive) { archive(by_group_, by_user_, all_); }

 private:
  struct Total {
    double sum_s = 0;
    double count = 0;
    void VisitFields(FieldArchive& archive) { archive(sum_s, count); }
    void Add(double value_s) {
      sum_s += value_s;
      ++count;
    }
    double Mean() const { return count > 0 ? sum_s / count : 0; }
  };
  absl::flat_hash_map<int, Total> by_group_, by_user_;
  Total all_;
};

}  // namespace tide::sched

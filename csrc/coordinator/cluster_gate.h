// Before the policy: whose jobs it may see now, by quota, decayed use over weight, and
// reservations.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "coordinator/cluster_types.h"

namespace tide::coordinator {

/// A value: no clock, no I/O.
class ClusterGate {
 public:
  struct User {
    std::string name;
    UserRule rule;
    double used_device_s = 0;  // decayed, until used_at_s
    double used_at_s = 0;
    int running_devices = 0;
    int admitted_devices = 0;  // of jobs that the policy knows
    // In order: who may pass; larger than all there is or than the quota; not looked at yet.
    std::deque<JobIndex> held, aside, fresh;
  };
  /// Bounds at one moment.
  struct Capacity {
    int devices = 0;  // that work
    double now_s = 0;
  };

  explicit ClusterGate(const ClusterOptions& options);

  int UserOf(const std::string& name);
  void Hold(JobIndex job, int user) { users_[user].fresh.push_back(job), ++held_; }
  /// Drops a held job; false when it is not held.
  bool Drop(JobIndex job, int user);
  /// Who may pass now, in order.
  std::vector<JobIndex> Release(absl::Span<const sched::JobView> jobs, const Capacity& capacity);
  /// A job that passed has ended.
  void Leave(const sched::JobView& job) { Count(job, -1); }
  /// Devices begin (positive) or cease to run for a user.
  void Use(int user, int devices, double now_s);

  void Reserve(const Reservation& reservation);
  /// What the policy may hand out: working devices without those kept for others.
  int Open(const Capacity& capacity) const;
  /// The next time at which Open changes by itself.
  double NextChange(double now_s) const;

  /// Device-seconds of a user with all that runs, decayed to now.
  double UsedAt(const User& user, double now_s) const;
  /// Why a held job is held, in a sentence with numbers.
  std::string Why(const sched::JobView& job, const Capacity& capacity) const;
  const std::vector<User>& users() const { return users_; }
  const std::vector<Reservation>& reservations() const { return reservations_; }
  size_t held() const { return held_; }
  /// All but the options; a user's rule is that of the options.
  void VisitFields(FieldArchive& archive);

 private:
  void Sort(User& user, absl::Span<const sched::JobView> jobs, const Capacity& capacity);
  bool plain() const { return !rules_ && reservations_.empty(); }
  bool Passes(const sched::JobView& job, const Capacity& capacity) const;
  int ReservedAgainst(const sched::JobView& job, double now_s) const;
  void Count(const sched::JobView& job, int sign);
  bool Backfills(const sched::JobView& job, const Capacity& capacity) const;
  JobIndex NextOf(const User& user, absl::Span<const sched::JobView> jobs,
                  const Capacity& capacity) const;
  JobIndex Next(absl::Span<const sched::JobView> jobs, const Capacity& capacity) const;

  ClusterOptions options_;  // constant after construction, as is rules_
  bool rules_;              // whether anybody has a quota or shares are fair
  std::vector<User> users_;
  absl::flat_hash_map<std::string, int> by_name_;
  std::vector<Reservation> reservations_;
  int admitted_devices_ = 0;
  size_t held_ = 0;
  int sorted_devices_ = -1;  // the capacity for which who is aside is so
};

}  // namespace tide::coordinator

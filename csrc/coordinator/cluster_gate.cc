// Quotas, shares and reservations.
#include "coordinator/cluster_gate.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tide::coordinator {

using sched::JobView;
using sched::kNever;

namespace {

constexpr size_t kBackfillDepth = 200;  // of one user's jobs, looked at for one that ends in time

}  // namespace

ClusterGate::ClusterGate(const ClusterOptions& options)
    : options_(options),
      rules_(options.fair_share ||
             std::any_of(options.users.begin(), options.users.end(),
                         [](const auto& entry) { return entry.second.quota_devices > 0; })) {}

int ClusterGate::UserOf(const std::string& name) {
  const auto [entry, is_new] = by_name_.try_emplace(name, static_cast<int>(users_.size()));
  if (is_new) {
    const auto rule = options_.users.find(name);
    users_.push_back(
        {.name = name, .rule = rule == options_.users.end() ? UserRule{} : rule->second});
  }
  return entry->second;
}

bool ClusterGate::Drop(JobIndex job, int user) {
  User& of = users_[user];
  const size_t dropped =
      std::erase(of.held, job) + std::erase(of.aside, job) + std::erase(of.fresh, job);
  held_ -= dropped;
  return dropped > 0;
}

void ClusterGate::Count(const JobView& job, int sign) {
  users_[job.user].admitted_devices += sign * job.gpus;
  admitted_devices_ += sign * job.gpus;
}

double ClusterGate::UsedAt(const User& user, double now_s) const {
  const double passed_s = std::max(0.0, now_s - user.used_at_s);
  const double rate = std::log(2.0) / options_.half_life_s;
  const double kept = std::exp(-rate * passed_s);
  // What runs adds its rate all the time and decays as well.
  return user.used_device_s * kept + user.running_devices * (1 - kept) / rate;
}

void ClusterGate::Use(int index, int devices, double now_s) {
  User& user = users_[index];
  user.used_device_s = UsedAt(user, now_s);
  user.used_at_s = now_s;
  user.running_devices += devices;
}

int ClusterGate::ReservedAgainst(const JobView& job, double now_s) const {
  const double until_s = job.duration_s > 0 ? now_s + job.RemainingAt(now_s) : kNever;
  int devices = 0;
  for (const Reservation& reservation : reservations_) {
    const bool overlaps = reservation.to_s > now_s && reservation.from_s < until_s;
    if (overlaps && reservation.user != users_[job.user].name) devices += reservation.devices;
  }
  return devices;
}

/// Whether reservations leave it room until it ends.
bool ClusterGate::Backfills(const JobView& job, const Capacity& capacity) const {
  const int reserved = ReservedAgainst(job, capacity.now_s);
  return reserved == 0 || admitted_devices_ + job.gpus <= capacity.devices - reserved;
}

bool ClusterGate::Passes(const JobView& job, const Capacity& capacity) const {
  const User& user = users_[job.user];
  const int quota = user.rule.quota_devices;
  if (job.gpus > capacity.devices) return false;
  if (quota > 0 && user.admitted_devices + job.gpus > quota) return false;
  return !options_.fair_share || admitted_devices_ + job.gpus <= capacity.devices;
}

// A user's jobs pass in order; only who waits for a reservation is passed by.
JobIndex ClusterGate::NextOf(const User& user, absl::Span<const JobView> jobs,
                             const Capacity& capacity) const {
  size_t looked_at = 0;
  for (const JobIndex job : user.held) {
    const JobView& view = jobs[job.value()];
    if (!Passes(view, capacity) || ++looked_at > kBackfillDepth) break;
    if (Backfills(view, capacity)) return job;
  }
  return JobIndex();
}

// Of the user with the least decayed use over weight; the older job among equals.
JobIndex ClusterGate::Next(absl::Span<const JobView> jobs, const Capacity& capacity) const {
  JobIndex best;
  double best_share = 0;
  for (const User& user : users_) {
    const JobIndex next = NextOf(user, jobs, capacity);
    if (next.value() < 0) continue;
    const double share = options_.fair_share ? UsedAt(user, capacity.now_s) / user.rule.weight : 0;
    if (best.value() < 0 || share < best_share || (share == best_share && next < best)) {
      best = next;
      best_share = share;
    }
  }
  return best;
}

// Gangs above what there is step aside, so that they hold up nobody; behind those that are held at
// that time, where they are when there is more. While the capacity stays only newcomers are looked
// at.
void ClusterGate::Sort(User& user, absl::Span<const JobView> jobs, const Capacity& capacity) {
  if (capacity.devices != sorted_devices_) {  // nobody's place is known any more
    user.fresh.insert(user.fresh.begin(), user.aside.begin(), user.aside.end());
    user.fresh.insert(user.fresh.begin(), user.held.begin(), user.held.end());
    user.held.clear();
    user.aside.clear();
  }
  const int quota = user.rule.quota_devices;
  const int most = quota > 0 ? std::min(quota, capacity.devices) : capacity.devices;
  for (const JobIndex job : user.fresh)
    (jobs[job.value()].gpus > most ? user.aside : user.held).push_back(job);
  user.fresh.clear();
}

std::vector<JobIndex> ClusterGate::Release(absl::Span<const JobView> jobs,
                                           const Capacity& capacity) {
  std::vector<JobIndex> released;
  if (held_ == 0) return released;
  for (User& user : users_) {
    Sort(user, jobs, capacity);
    if (!plain()) continue;
    released.insert(released.end(), user.held.begin(), user.held.end());
    user.held.clear();
  }
  sorted_devices_ = capacity.devices;
  std::sort(released.begin(), released.end());
  for (const JobIndex job : released) Count(jobs[job.value()], +1);
  while (!plain()) {
    const JobIndex next = Next(jobs, capacity);
    if (next.value() < 0) break;
    std::deque<JobIndex>& held = users_[jobs[next.value()].user].held;
    held.erase(std::find(held.begin(), held.end(), next));  // it is near the front
    released.push_back(next);
    Count(jobs[next.value()], +1);
  }
  held_ -= released.size();
  return released;
}

void ClusterGate::Reserve(const Reservation& reservation) {
  std::erase_if(reservations_,
                [&](const Reservation& other) { return other.name == reservation.name; });
  if (reservation.devices > 0) reservations_.push_back(reservation);
}

int ClusterGate::Open(const Capacity& capacity) const {
  int kept = 0;
  for (const Reservation& reservation : reservations_) {
    if (reservation.from_s > capacity.now_s || reservation.to_s <= capacity.now_s) continue;
    const auto owner = by_name_.find(reservation.user);
    const int inside = owner == by_name_.end() ? 0 : users_[owner->second].admitted_devices;
    kept += std::max(0, reservation.devices - inside);
  }
  return std::max(0, capacity.devices - kept);
}

double ClusterGate::NextChange(double now_s) const {
  double next_s = kNever;
  for (const Reservation& reservation : reservations_) {
    for (const double at_s : {reservation.from_s, reservation.to_s}) {
      if (at_s > now_s) next_s = std::min(next_s, at_s);
    }
  }
  return next_s;
}

std::string ClusterGate::Why(const JobView& job, const Capacity& capacity) const {
  const User& user = users_[job.user];
  if (job.gpus > capacity.devices) {
    return absl::StrCat("it asks for ", job.gpus, " devices at once; ", capacity.devices,
                        " work in the cluster");
  }
  const int quota = user.rule.quota_devices;
  if (quota > 0 && user.admitted_devices + job.gpus > quota) {
    return absl::StrCat("the quota of ", user.name, " is ", quota, " devices, ",
                        user.admitted_devices, " are taken, it asks for ", job.gpus);
  }
  const int reserved = ReservedAgainst(job, capacity.now_s);
  if (reserved > 0 && admitted_devices_ + job.gpus > capacity.devices - reserved) {
    return absl::StrCat(reserved, " of ", capacity.devices,
                        " devices are reserved for others before it would end");
  }
  return absl::StrFormat(
      "shares are fair: %s has used %.0f device-seconds (half-life counted, weight %g), and others "
      "with less go first",
      user.name, UsedAt(user, capacity.now_s), user.rule.weight);
}

}  // namespace tide::coordinator

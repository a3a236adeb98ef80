// lucid: least predicted GPU time first, nobody is preempted; jobs that hardly disturb each other
// share.
#include <algorithm>

#include "sched/cluster_policies.h"
#include "sched/corun.h"
#include "sched/duration_history.h"
#include "sched/share_deal.h"

namespace tide::sched {
namespace {

constexpr double kTiny = 0.95;    // average speed beside one like it: label 0
constexpr double kMedium = 0.85;  // label 1; below: 2
constexpr int kLabelsMax = 2;     // sum of the two
constexpr int kGangMax = 8;       // of jobs that share
constexpr double kPatience = 2;   // a newcomer may be this many times as long as the job it joins

constexpr double kProfiled = 200;  // seconds, as published for one cluster; 80 for another

class Lucid final : public ClusterPolicy {
 public:
  Lucid(int profiler_gpus, double limit_s) : profiler_gpus_(profiler_gpus), limit_s_(limit_s) {}
  std::unique_ptr<ClusterPolicy> Clone() const override { return std::make_unique<Lucid>(*this); }

  ClusterDecision Decide(const ClusterInput& input) override {
    for (const JobEvent& event : input.events) {
      if (event.kind == JobEventKind::kCompletion) history_.Book(input.jobs[event.job.value()]);
    }
    UpdateActive(input, active_);
    ClusterDecision decision;
    if (profiler_gpus_ > 0) LeaveProfiler(input, decision);
    Room room{.rest = input.cluster.gpus};
    std::vector<JobIndex> hosts;  // alone on their GPUs
    for (const ShareGroup& group : GroupsNow(input, active_)) {
      const int gpus = input.jobs[group.front().value()].gpus;
      if (IsProfiled(group.front())) {
        room.profiler -= gpus;
        continue;
      }
      if (IsStopped(decision, group.front())) continue;
      room.rest -= gpus;
      if (group.size() == 1) hosts.push_back(group.front());
    }
    if (profiler_gpus_ > 0) EnterProfiler(input, room, decision);
    Deal(input, room, hosts, decision);
    return decision;
  }

  bool VisitState(PolicyArchive& archive) override {
    archive.fields(history_, active_, queue_, profiled_);
    return true;
  }

 private:
  struct Profiled {
    JobIndex job;
    double until_s = 0;
    void VisitFields(FieldArchive& archive) { archive(job, until_s); }
  };

  bool IsProfiled(JobIndex job) const {
    return std::any_of(profiled_.begin(), profiled_.end(),
                       [&](const Profiled& entry) { return entry.job == job; });
  }

  // Free GPUs of the profiler, and of the others.
  struct Room {
    int profiler = 0, rest = 0;
  };

  static bool IsStopped(const ClusterDecision& decision, JobIndex job) {
    return std::any_of(decision.actions.begin(), decision.actions.end(),
                       [&](const JobAction& action) { return action.job == job; });
  }

  void LeaveProfiler(const ClusterInput& input, ClusterDecision& decision) {
    std::erase_if(profiled_, [&](const Profiled& entry) {
      if (input.jobs[entry.job.value()].state != JobState::kRunning) return true;
      if (input.now_s < entry.until_s) return false;
      decision.actions.push_back({.job = entry.job,
                                  .kind = JobActionKind::kPreempt,
                                  .reason = "its time in the profiler is over"});
      return true;
    });
    std::erase_if(
        queue_, [&](JobIndex job) { return input.jobs[job.value()].state != JobState::kPending; });
    for (const JobEvent& event : input.events) {
      const int gpus = input.jobs[event.job.value()].gpus;
      if (event.kind != JobEventKind::kArrival || gpus > std::min(profiler_gpus_, kGangMax)) {
        continue;
      }
      queue_.push_back(event.job);
    }
  }

  // Keeps the profiler's GPUs apart. While a gang waits that is larger than the rest, nobody new
  // is profiled: it needs them, too.
  void EnterProfiler(const ClusterInput& input, Room& room, ClusterDecision& decision) {
    const int size = std::min(profiler_gpus_, input.cluster.gpus);
    room.profiler = std::min(size + room.profiler, room.rest + room.profiler);
    room.rest -= size;
    const bool wide = std::any_of(active_.begin(), active_.end(), [&](JobIndex job) {
      const JobView& view = input.jobs[job.value()];
      return view.state == JobState::kPending && IsWide(input, view);
    });
    std::stable_sort(queue_.begin(), queue_.end(), [&](JobIndex a, JobIndex b) {
      return input.jobs[a.value()].gpus < input.jobs[b.value()].gpus;
    });
    while (!wide && !queue_.empty() && input.jobs[queue_.front().value()].gpus <= room.profiler) {
      room.profiler -= input.jobs[queue_.front().value()].gpus;
      profiled_.push_back({queue_.front(), input.now_s + limit_s_});
      decision.actions.push_back(
          {.job = queue_.front(), .reason = "it is profiled first, the smallest gang of those"});
      queue_.erase(queue_.begin());
    }
    for (const Profiled& entry : profiled_) {
      decision.wake_s = std::min(decision.wake_s, entry.until_s);
    }
  }

  bool IsWide(const ClusterInput& input, const JobView& job) const {
    return profiler_gpus_ > 0 && job.gpus > std::max(0, input.cluster.gpus - profiler_gpus_) &&
           job.gpus <= input.cluster.gpus;
  }

  void Deal(const ClusterInput& input, Room room, std::vector<JobIndex>& hosts,
            ClusterDecision& decision) const {
    std::vector<std::pair<double, JobIndex>> waiting;
    for (const JobIndex job : active_) {
      const bool waits = input.jobs[job.value()].state == JobState::kPending;
      if (!waits && !IsStopped(decision, job)) continue;
      if (IsProfiled(job) || std::find(queue_.begin(), queue_.end(), job) != queue_.end()) continue;
      waiting.emplace_back(Priority(input, job), job);
    }
    std::sort(waiting.begin(), waiting.end());
    for (const auto& [priority, job] : waiting) {
      const JobView& view = input.jobs[job.value()];
      const int free = IsWide(input, view) ? room.rest + std::max(0, room.profiler) : room.rest;
      if (view.gpus <= free) {
        room.rest -= view.gpus;
        decision.actions.push_back(
            {.job = job, .reason = "of the jobs that fit its predicted GPU time is the least"});
        continue;
      }
      const auto host = std::find_if(hosts.begin(), hosts.end(), [&, newcomer = job](JobIndex h) {
        return Suits(input, newcomer, h);
      });
      if (host == hosts.end()) continue;
      decision.actions.push_back({.job = job,
                                  .reason = "it and the job on these GPUs hardly slow each other",
                                  .beside = *host});
      hosts.erase(host);
    }
  }

  double Priority(const ClusterInput& input, JobIndex job) const {
    const JobView& view = input.jobs[job.value()];
    return history_.Predict(view) * view.gpus;
  }

  static int Label(const ClusterInput& input, int profile) {
    const CorunMember one{.profile = profile};
    const double speed = CorunSpeeds({one, one}, *input.profiles)[0];
    return speed >= kTiny ? 0 : speed >= kMedium ? 1 : 2;
  }

  bool Suits(const ClusterInput& input, JobIndex newcomer, JobIndex host) const {
    const JobView& a = input.jobs[newcomer.value()];
    const JobView& b = input.jobs[host.value()];
    if (input.profiles == nullptr || a.profile < 0 || b.profile < 0) return false;
    if (a.gpus != b.gpus || a.gpus > kGangMax || b.held != b.gpus) return false;
    const JobProfile& first = input.profiles->of[a.profile];
    const JobProfile& second = input.profiles->of[b.profile];
    const double memory_gib =
        first.memory_gib + first.scratch_gib + second.memory_gib + second.scratch_gib;
    if (input.profiles->gpu_memory_gib > 0 && memory_gib > input.profiles->gpu_memory_gib) {
      return false;
    }
    if (Label(input, a.profile) + Label(input, b.profile) > kLabelsMax) return false;
    return Priority(input, newcomer) <= kPatience * Priority(input, host);
  }

  const int profiler_gpus_;
  const double limit_s_;
  DurationHistory history_;
  std::vector<JobIndex> active_;
  std::vector<JobIndex> queue_;  // for the profiler
  std::vector<Profiled> profiled_;
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeLucid(const ClusterPolicyOptions& options) {
  return std::make_unique<Lucid>(
      options.profiler_gpus, options.profiler_limit_s > 0 ? options.profiler_limit_s : kProfiled);
}

}  // namespace tide::sched

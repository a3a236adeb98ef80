// A queue is two lists, running and waiting, each behind an index; all running jobs of the queues
// before the first that lacks GPUs are kept by their sum alone, so an event costs what it changes.
#include "sched/attained_service.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "absl/container/btree_set.h"
#include "sched/gang_queue.h"

namespace tide::sched {
namespace {

// What the policy remembers of a job that is in the cluster.
struct Member {
  int queue = 0;
  int gpus = 0;
  bool running = false;
  int64_t rank = 0;       // in the list of its queue that it is in
  double forgiven_s = 0;  // service that no longer counts, since it started over
  double anchor_s = 0;    // running: the time at which its counted service would have been zero
  double waits_since_s = 0;
  double starts_over_s = kNever;  // waiting: when it will have waited too long
  void VisitFields(FieldArchive& archive) {
    archive(queue, gpus, running, rank, forgiven_s, anchor_s, waits_since_s, starts_over_s);
  }
};

struct Level {
  absl::btree_set<std::pair<int64_t, JobIndex>> running;  // by rank
  GangQueue waiting;                                      // by rank
  int64_t used = 0;                                       // GPUs of the running
  int64_t next_running_rank = 0;
  int64_t front_rank = 0, back_rank = 0;  // of the waiting: before the first, after the last
  std::vector<JobIndex> joining;          // at its tail, at this event
  // Running jobs by size of gang, then by anchor: the first of each has had the most service.
  std::map<int, absl::btree_set<std::pair<double, JobIndex>>> by_anchor;
  void VisitFields(FieldArchive& archive) {
    archive(running, waiting, used, next_running_rank, front_rank, back_rank, joining, by_anchor);
  }
};

class AttainedService final : public ClusterPolicy {
 public:
  explicit AttainedService(const AttainedServiceOptions& options)
      : options_(options), levels_(options.limits.size() + 1) {}
  std::unique_ptr<ClusterPolicy> Clone() const override {
    return std::make_unique<AttainedService>(*this);
  }

  ClusterDecision Decide(const ClusterInput& input) override {
    if (members_.size() < input.jobs.size()) members_.resize(input.jobs.size());
    TakeIn(input);
    Demote(input.now_s);
    Promote(input);
    ClusterDecision decision;
    int64_t free = input.cluster.gpus;
    for (size_t level = 0; level < levels_.size(); ++level) {
      free = Deal(input, static_cast<int>(level), free, decision.actions);
    }
    decision.wake_s = NextLook(input.now_s);
    return decision;
  }

  bool VisitState(PolicyArchive& archive) override {
    archive.PerJob(members_);
    for (Level& level : levels_) archive.fields(level);
    archive.fields(hungry_);
    return true;
  }

 private:
  Member& At(JobIndex job) { return members_[job.value()]; }
  bool IsLast(int queue) const { return queue + 1 == static_cast<int>(levels_.size()); }

  void TakeIn(const ClusterInput& input) {
    for (const JobEvent& event : input.events) {
      Member& member = At(event.job);
      if (event.kind != JobEventKind::kArrival && member.running) TakeFromRunning(event.job);
      if (event.kind == JobEventKind::kCompletion) continue;
      member.running = false;
      member.waits_since_s = input.now_s;
      member.gpus = input.jobs[event.job.value()].gpus;
      if (event.kind == JobEventKind::kArrival) levels_[0].joining.push_back(event.job);
      if (event.kind == JobEventKind::kEviction)
        Wait(event.job, --levels_[member.queue].front_rank);
    }
  }

  // Each job moves down by one queue an event, in order of submission.
  void Demote(double now_s) {
    std::vector<JobIndex> demoted;
    for (size_t queue = 0; queue < options_.limits.size(); ++queue) {
      const double limit = options_.limits[queue];
      for (const auto& [gpus, anchors] : levels_[queue].by_anchor) {
        const double factor = Factor(gpus);
        for (const auto& [anchor_s, job] : anchors) {
          if ((now_s - anchor_s) * factor < limit) break;
          demoted.push_back(job);
        }
      }
    }
    std::sort(demoted.begin(), demoted.end());
    for (const JobIndex job : demoted) {
      TakeFromRunning(job);
      levels_[++At(job).queue].joining.push_back(job);
    }
  }

  // A job that has waited too long for the service it had goes to the tail of the first queue.
  void Promote(const ClusterInput& input) {
    while (!hungry_.empty() && hungry_.begin()->first <= input.now_s) {
      const JobIndex job = hungry_.begin()->second;
      hungry_.erase(hungry_.begin());
      Member& member = At(job);
      levels_[member.queue].waiting.Erase(Entry(job));
      member.starts_over_s = kNever;
      member.queue = 0;
      member.forgiven_s = input.jobs[job.value()].executed_s;
      levels_[0].joining.push_back(job);
    }
  }

  // Gives GPUs to running jobs, then waiting ones, then those that join; returns what is left.
  int64_t Deal(const ClusterInput& input, int queue, int64_t free,
               std::vector<JobAction>& actions) {
    Level& level = levels_[queue];
    std::vector<JobIndex> preempted = Squeeze(level, free);
    free -= level.used;
    while (const GangEntry* first = level.waiting.First(static_cast<int>(free))) {
      const JobIndex job = first->job;
      free -= first->gpus;
      StopWaiting(job);
      Run(input, job, actions);
    }
    std::vector<JobIndex> too_large;
    for (const JobIndex job : level.joining) {
      const Member& member = At(job);
      if (member.gpus > free) {
        too_large.push_back(job);
        continue;
      }
      free -= member.gpus;
      Run(input, job, actions);
    }
    level.joining.clear();
    level.front_rank -= static_cast<int64_t>(preempted.size());
    int64_t rank = level.front_rank;
    for (const JobIndex job : preempted) Hold(input, job, rank++, actions);
    for (const JobIndex job : too_large) Hold(input, job, level.back_rank++, actions);
    return free;
  }

  // Takes running jobs that no longer fit out of the level, in order; usually there are none.
  std::vector<JobIndex> Squeeze(const Level& level, int64_t free) {
    std::vector<JobIndex> out;
    if (level.used <= free) return out;
    for (const auto& [rank, job] : level.running) {
      if (At(job).gpus <= free) {
        free -= At(job).gpus;
      } else {
        out.push_back(job);
      }
    }
    for (const JobIndex job : out) TakeFromRunning(job);
    return out;
  }

  void Run(const ClusterInput& input, JobIndex job, std::vector<JobAction>& actions) {
    Member& member = At(job);
    Level& level = levels_[member.queue];
    if (!member.running) {
      const double had_s = input.jobs[job.value()].executed_s - member.forgiven_s;
      member.anchor_s = input.now_s - had_s;
      actions.push_back({.job = job,
                         .kind = JobActionKind::kStart,
                         .reason = "of the jobs that fit it has had the least service"});
    }
    member.running = true;
    member.rank = level.next_running_rank++;
    level.running.insert({member.rank, job});
    level.used += member.gpus;
    if (!IsLast(member.queue)) level.by_anchor[member.gpus].insert({member.anchor_s, job});
  }

  void Hold(const ClusterInput& input, JobIndex job, int64_t rank,
            std::vector<JobAction>& actions) {
    Member& member = At(job);
    if (member.running) {
      actions.push_back({.job = job,
                         .kind = JobActionKind::kPreempt,
                         .reason = "jobs that have had less service need its GPUs"});
      member.waits_since_s = input.now_s;
    }
    member.running = false;
    Wait(job, rank);
    if (options_.starvation_knob <= 0 || member.queue == 0) return;
    const double had_s = input.jobs[job.value()].ExecutedAt(input.now_s) - member.forgiven_s;
    member.starts_over_s = member.waits_since_s + options_.starvation_knob * had_s;
    hungry_.insert({member.starts_over_s, job});
  }

  GangEntry Entry(JobIndex job) const {
    const Member& member = members_[job.value()];
    return {.key = 0, .rank = member.rank, .job = job, .gpus = member.gpus};
  }

  void Wait(JobIndex job, int64_t rank) {
    At(job).rank = rank;
    levels_[At(job).queue].waiting.Push(Entry(job));
  }

  void StopWaiting(JobIndex job) {
    levels_[At(job).queue].waiting.Erase(Entry(job));
    if (At(job).starts_over_s != kNever) hungry_.erase({At(job).starts_over_s, job});
    At(job).starts_over_s = kNever;
  }

  void TakeFromRunning(JobIndex job) {
    const Member& member = At(job);
    Level& level = levels_[member.queue];
    if (level.running.erase({member.rank, job}) == 0) return;
    level.used -= member.gpus;
    if (!IsLast(member.queue)) level.by_anchor[member.gpus].erase({member.anchor_s, job});
  }

  double Factor(int gpus) const { return options_.unit == ServiceUnit::kGpuSeconds ? gpus : 1; }

  double NextLook(double now_s) const {
    double next_s = hungry_.empty() ? kNever : hungry_.begin()->first;
    for (size_t queue = 0; queue < options_.limits.size(); ++queue) {
      const double limit = options_.limits[queue];
      for (const auto& [gpus, anchors] : levels_[queue].by_anchor) {
        if (anchors.empty()) continue;
        const double anchor_s = anchors.begin()->first;
        double wait_s = options_.clock == DemotionClock::kExact
                            ? std::ceil(limit / Factor(gpus)) - (now_s - anchor_s)
                            : std::floor((limit - (now_s - anchor_s)) / Factor(gpus));
        // The rule is of whole seconds; between them a rounded difference may never reach the
        // limit.
        if (now_s != std::floor(now_s)) wait_s = std::max(1.0, wait_s);
        next_s = std::min(next_s, now_s + wait_s);
      }
    }
    return next_s;
  }

  const AttainedServiceOptions options_;
  std::vector<Level> levels_;
  std::vector<Member> members_;
  absl::btree_set<std::pair<double, JobIndex>> hungry_;  // by the time at which a job starts over
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeAttainedService(const AttainedServiceOptions& options) {
  return std::make_unique<AttainedService>(options);
}

std::vector<double> QueueLimits(const ClusterPolicyOptions& options) {
  return options.queue_limits_s.empty() ? std::vector<double>{3250, 7200} : options.queue_limits_s;
}

}  // namespace tide::sched

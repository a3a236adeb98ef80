// GPUs are dealt out anew by class at each event; guests are paced at multiples of the control
// interval.
#include "sched/protected_share.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "sched/share_deal.h"

namespace tide::sched {
namespace {

constexpr double kPaceMin = 0.01;

class ProtectedShare final : public ClusterPolicy {
 public:
  explicit ProtectedShare(const ProtectedShareOptions& options) : options_(options) {}
  std::unique_ptr<ClusterPolicy> Clone() const override {
    return std::make_unique<ProtectedShare>(*this);
  }

  ClusterDecision Decide(const ClusterInput& input) override {
    UpdateActive(input, active_);
    std::erase_if(paces_, [&](const auto& entry) {
      return input.jobs[entry.first.value()].state != JobState::kRunning;
    });
    ClusterDecision decision;
    std::vector<ShareGroup> kept = Deal(input, decision.actions);
    if (input.now_s >= control_s_) {
      SetPaces(input, kept, decision.actions);
      control_s_ = (std::floor(input.now_s / options_.control_s) + 1) * options_.control_s;
    }
    Invite(input, kept, decision.actions);
    if (!paces_.empty()) decision.wake_s = control_s_;
    return decision;
  }

  bool VisitState(PolicyArchive& archive) override {
    archive.fields(active_, paces_, control_s_);
    return true;
  }

 private:
  static bool Protected(const ClusterInput& input, JobIndex job) {
    return input.jobs[job.value()].tier != JobTier::kOpportunistic;
  }

  // A set of GPUs in use, or a job that waits for one.
  struct Unit {
    int rank;  // protected running, protected waiting, opportunistic running, opportunistic waiting
    ShareGroup group;
  };

  std::vector<ShareGroup> Deal(const ClusterInput& input, std::vector<JobAction>& actions) {
    std::vector<Unit> units;
    for (ShareGroup& group : GroupsNow(input, active_)) {
      const bool safe = std::any_of(group.begin(), group.end(),
                                    [&](JobIndex job) { return Protected(input, job); });
      units.push_back({.rank = safe ? 0 : 2, .group = std::move(group)});
    }
    std::sort(units.begin(), units.end(),
              [](const Unit& a, const Unit& b) { return a.group.front() < b.group.front(); });
    for (const JobIndex job : active_) {
      if (input.jobs[job.value()].state != JobState::kPending) continue;
      units.push_back({.rank = Protected(input, job) ? 1 : 3, .group = {job}});
    }
    std::stable_sort(units.begin(), units.end(),
                     [](const Unit& a, const Unit& b) { return a.rank < b.rank; });
    std::vector<ShareGroup> kept;
    int free = input.cluster.gpus;
    waiting_.clear();
    for (const Unit& unit : units) {
      const bool runs = unit.rank % 2 == 0;
      const int gpus = input.jobs[unit.group.front().value()].gpus;
      if (gpus <= free) {
        free -= gpus;
        kept.push_back(unit.group);
        if (!runs) actions.push_back({.job = unit.group.front(), .reason = options_.start_reason});
        continue;
      }
      for (const JobIndex job : unit.group) {
        if (runs) {
          actions.push_back(
              {.job = job, .kind = JobActionKind::kPreempt, .reason = options_.preempt_reason});
        } else if (unit.rank == 3) {
          waiting_.push_back(job);
        }
      }
    }
    return kept;
  }

  // One guest a host; a host must have been running for its speed to be known.
  void Invite(const ClusterInput& input, std::vector<ShareGroup>& kept,
              std::vector<JobAction>& actions) {
    for (const JobIndex guest : waiting_) {
      const auto host = std::find_if(kept.begin(), kept.end(), [&](const ShareGroup& group) {
        return group.size() == 1 && Protected(input, group.front()) &&
               Suits(input, guest, group.front());
      });
      if (host == kept.end()) continue;
      actions.push_back({.job = guest,
                         .reason = "a protected job leaves time on the GPUs that it can use",
                         .beside = host->front(),
                         .pace = options_.first_pace});
      paces_[guest] = options_.first_pace;
      host->push_back(guest);
    }
  }

  bool Suits(const ClusterInput& input, JobIndex guest, JobIndex host) const {
    const JobView& a = input.jobs[guest.value()];
    const JobView& b = input.jobs[host.value()];
    if (b.state != JobState::kRunning || a.gpus != b.held) return false;
    if (input.profiles == nullptr || a.profile < 0 || b.profile < 0) return false;
    const JobProfile& first = input.profiles->of[a.profile];
    const JobProfile& second = input.profiles->of[b.profile];
    if (second.busy >= 1) return false;  // nothing to harvest
    if (!options_.needs_room) return true;
    const double memory_gib = input.profiles->gpu_memory_gib;
    return memory_gib <= 0 ||
           first.memory_gib + first.scratch_gib + second.memory_gib + second.scratch_gib <=
               memory_gib;
  }

  void SetPaces(const ClusterInput& input, const std::vector<ShareGroup>& kept,
                std::vector<JobAction>& actions) {
    for (const ShareGroup& group : kept) {
      for (const JobIndex guest : group) {
        const auto found = paces_.find(guest);
        if (found == paces_.end()) continue;
        const auto host = std::find_if(group.begin(), group.end(),
                                       [&](JobIndex job) { return Protected(input, job); });
        double pace = 1;  // whose host has ended has the GPUs for itself
        if (host != group.end()) {
          const JobView& view = input.jobs[host->value()];
          const double alone = SpeedOf(view, input.profiles, view.held);
          pace = NextPace(found->second, view.rate / std::max(1e-9, alone), options_);
        }
        if (pace == found->second) continue;
        found->second = pace;
        actions.push_back({.job = guest,
                           .kind = JobActionKind::kPace,
                           .reason = "the pace follows the speed of the protected job",
                           .pace = pace});
        if (host == group.end()) paces_.erase(found);
      }
    }
  }

  const ProtectedShareOptions options_;
  std::vector<JobIndex> active_;
  std::vector<JobIndex> waiting_;     // opportunistic, of this decision
  std::map<JobIndex, double> paces_;  // of guests
  double control_s_ = 0;
};

}  // namespace

double NextPace(double pace, double host_speed, const ProtectedShareOptions& options) {
  const bool keeps = host_speed >= 1 - options.loss_allowed;
  return std::clamp(keeps ? pace + options.step_up : pace * options.step_down, kPaceMin, 1.0);
}

std::unique_ptr<ClusterPolicy> MakeProtectedShare(const ProtectedShareOptions& options) {
  return std::make_unique<ProtectedShare>(options);
}

}  // namespace tide::sched

// gandiva: time slices for all, pairs that get more done together, idle GPUs to jobs that can grow,
// gangs moved to fewer nodes.
#include <algorithm>
#include <cmath>

#include "absl/container/flat_hash_map.h"
#include "sched/cluster_policies.h"
#include "sched/corun.h"
#include "sched/migration.h"
#include "sched/share_deal.h"
#include "sched/target_deal.h"

namespace tide::sched {
namespace {

constexpr double kQuantum = 60;
constexpr double kMove = 30;  // seconds that a move costs, where the options do not say

class Gandiva final : public ClusterPolicy {
 public:
  Gandiva(double quantum_s, double move_s) : quantum_s_(quantum_s), move_s_(move_s) {}
  std::unique_ptr<ClusterPolicy> Clone() const override { return std::make_unique<Gandiva>(*this); }

  ClusterDecision Decide(const ClusterInput& input) override {
    UpdateActive(input, active_);
    std::vector<ShareGroup> groups;
    if (input.now_s >= slice_end_s_) {
      groups = Slice(input);
      slice_end_s_ = (std::floor(input.now_s / quantum_s_) + 1) * quantum_s_;
    } else {
      groups = GroupsNow(input, active_);
    }
    ClusterDecision decision;
    const bool waits = Fill(input, groups);
    ApplyGroups(input, active_, groups, "its time slice begins",
                "the two get more done together than in turns", "its time slice is over",
                decision.actions);
    GiveBack(input, groups, waits, decision.actions);
    if (!waits) Grow(input, groups, decision.actions);
    if (waits) decision.wake_s = slice_end_s_;
    MoveOne(input, active_, move_s_, quantum_s_, decision);
    return decision;
  }

  bool VisitState(PolicyArchive& archive) override {
    archive.fields(active_, slice_end_s_);
    return true;
  }

 private:
  static const JobView& View(const ClusterInput& input, JobIndex job) {
    return input.jobs[job.value()];
  }

  // Round robin: who has waited longest goes first, who runs goes last. When not all fit, pairs of
  // the jobs that keep their GPUs least busy share.
  std::vector<ShareGroup> Slice(const ClusterInput& input) const {
    std::vector<JobIndex> order = active_;
    std::stable_sort(order.begin(), order.end(), [&](JobIndex a, JobIndex b) {
      const bool waits = View(input, a).state == JobState::kPending;
      if (waits != (View(input, b).state == JobState::kPending)) return waits;
      return waits && View(input, a).since_s < View(input, b).since_s;
    });
    int64_t wanted = 0;
    for (const JobIndex job : order) wanted += View(input, job).gpus;
    std::vector<ShareGroup> units;
    std::vector<bool> taken(input.jobs.size());
    if (wanted > input.cluster.gpus) Pair(input, wanted, units, taken);
    for (const JobIndex job : order) {
      if (!taken[job.value()]) units.push_back({job});
    }
    const auto place = [&](const ShareGroup& unit) {
      size_t first = order.size();
      for (const JobIndex job : unit) {
        first = std::min<size_t>(first, std::find(order.begin(), order.end(), job) - order.begin());
      }
      return first;
    };
    std::vector<std::pair<size_t, ShareGroup>> placed;
    for (ShareGroup& unit : units) placed.emplace_back(place(unit), std::move(unit));
    std::sort(placed.begin(), placed.end());
    std::vector<ShareGroup> groups;
    int free = input.cluster.gpus;
    for (auto& [rank, unit] : placed) {
      if (View(input, unit[0]).gpus > free) continue;
      free -= View(input, unit[0]).gpus;
      groups.push_back(std::move(unit));
    }
    return groups;
  }

  // Least busy first, while the rest does not fit. A pair is kept only if together they do more
  // than one.
  static void Pair(const ClusterInput& input, int64_t wanted, std::vector<ShareGroup>& units,
                   std::vector<bool>& taken) {
    if (input.profiles == nullptr) return;
    std::vector<JobIndex> known;
    for (size_t i = 0; i < input.jobs.size(); ++i) {
      const JobView& job = input.jobs[i];
      const bool active = job.state == JobState::kRunning || job.state == JobState::kPending;
      if (active && job.profile >= 0) known.push_back(JobIndex(static_cast<int>(i)));
    }
    const auto busy = [&](JobIndex job) {
      return input.profiles->of[View(input, job).profile].busy;
    };
    std::stable_sort(known.begin(), known.end(),
                     [&](JobIndex a, JobIndex b) { return busy(a) < busy(b); });
    absl::flat_hash_map<int, JobIndex> single;  // by size, the last without a partner
    for (const JobIndex job : known) {
      if (wanted <= input.cluster.gpus) return;
      const int gpus = View(input, job).gpus;
      const auto found = single.find(gpus);
      if (found == single.end()) {
        single[gpus] = job;
        continue;
      }
      const CorunMember members[] = {{.profile = View(input, found->second).profile},
                                     {.profile = View(input, job).profile}};
      const std::vector<double> speeds = CorunSpeeds(members, *input.profiles);
      if (speeds[0] + speeds[1] <= 1) continue;
      units.push_back({found->second, job});
      taken[found->second.value()] = taken[job.value()] = true;
      single.erase(found);
      wanted -= gpus;
    }
  }

  // Free GPUs go to who waits, in order of submission. Whether somebody still waits.
  bool Fill(const ClusterInput& input, std::vector<ShareGroup>& groups) const {
    int free = input.cluster.gpus;
    std::vector<bool> placed(input.jobs.size());
    for (const ShareGroup& group : groups) {
      free -= View(input, group[0]).gpus;
      for (const JobIndex job : group) placed[job.value()] = true;
    }
    for (const JobIndex job : active_) {
      const int gpus = View(input, job).gpus;
      if (placed[job.value()] || gpus > free) continue;
      free -= gpus;
      placed[job.value()] = true;
      groups.push_back({job});
    }
    return std::any_of(active_.begin(), active_.end(),
                       [&](JobIndex job) { return !placed[job.value()]; });
  }

  // Jobs that grew go back to their gangs when anybody else starts or waits, or shares their GPUs.
  static void GiveBack(const ClusterInput& input, const std::vector<ShareGroup>& groups, bool waits,
                       std::vector<JobAction>& actions) {
    std::vector<bool> stopped(input.jobs.size());
    for (const JobAction& action : actions) {
      waits |= action.kind == JobActionKind::kStart;
      if (action.kind == JobActionKind::kPreempt) stopped[action.job.value()] = true;
    }
    for (const ShareGroup& group : groups) {
      for (const JobIndex job : group) {
        const JobView& view = View(input, job);
        if (view.held <= view.gpus || stopped[job.value()]) continue;
        if (!waits && group.size() == 1) continue;
        actions.push_back({.job = job,
                           .kind = JobActionKind::kResize,
                           .reason = "others need the GPUs by which it grew",
                           .gpus = view.gpus});
      }
    }
  }

  // Jobs alone on their GPUs that can use more take what is idle, one size after the other.
  static void Grow(const ClusterInput& input, const std::vector<ShareGroup>& groups,
                   std::vector<JobAction>& actions) {
    int free = input.cluster.gpus;
    bool moved = false;
    for (const JobAction& action : actions) moved |= action.kind != JobActionKind::kStart;
    for (const ShareGroup& group : groups) {
      const JobView& view = View(input, group[0]);
      free -= moved ? view.gpus : std::max(view.gpus, view.held);
    }
    if (moved) return;  // what came free now is dealt out at the next event
    for (const ShareGroup& group : groups) {
      const JobView& view = View(input, group[0]);
      if (group.size() > 1 || view.state != JobState::kRunning) continue;
      int best = view.held;
      for (const int size : SizesOf(view, input.profiles)) {
        const bool faster =
            SpeedOf(view, input.profiles, size) > SpeedOf(view, input.profiles, best);
        if (size > best && size - view.held <= free && faster) best = size;
      }
      if (best == view.held) continue;
      free -= best - view.held;
      actions.push_back({.job = group[0],
                         .kind = JobActionKind::kResize,
                         .reason = "GPUs are idle and it can use them",
                         .gpus = best});
    }
  }

  const double quantum_s_, move_s_;
  std::vector<JobIndex> active_;
  double slice_end_s_ = 0;
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeGandiva(const ClusterPolicyOptions& options) {
  return std::make_unique<Gandiva>(options.round_s > 0 ? options.round_s : kQuantum,
                                   options.restart_cost_s > 0 ? options.restart_cost_s : kMove);
}

}  // namespace tide::sched

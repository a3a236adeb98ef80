// salus: jobs are admitted to GPUs while what they keep and the largest scratch fit in memory; they
// take turns by iterations.
#include <algorithm>

#include "sched/cluster_policies.h"
#include "sched/share_deal.h"

namespace tide::sched {
namespace {

class Salus final : public ClusterPolicy {
 public:
  std::unique_ptr<ClusterPolicy> Clone() const override { return std::make_unique<Salus>(*this); }

  ClusterDecision Decide(const ClusterInput& input) override {
    UpdateActive(input, active_);
    std::vector<ShareGroup> groups = GroupsNow(input, active_);
    int free = input.cluster.gpus;
    for (const ShareGroup& group : groups) free -= input.jobs[group.front().value()].gpus;
    ClusterDecision decision;
    for (const JobIndex job : active_) {  // in order of submission
      const JobView& view = input.jobs[job.value()];
      if (view.state != JobState::kPending) continue;
      if (view.gpus <= free) {
        free -= view.gpus;
        groups.push_back({job});
        decision.actions.push_back({.job = job, .reason = "it is the first in line that fits"});
        continue;
      }
      // The lane with the fewest jobs, the first of those.
      ShareGroup* lane = nullptr;
      for (ShareGroup& group : groups) {
        if (!Admits(input, group, view)) continue;
        if (lane == nullptr || group.size() < lane->size()) lane = &group;
      }
      if (lane == nullptr) continue;
      decision.actions.push_back(
          {.job = job,
           .reason = "what the jobs on these GPUs keep and the largest scratch leave it room",
           .beside = lane->front()});
      lane->push_back(job);
    }
    return decision;
  }

  bool VisitState(PolicyArchive& archive) override {
    archive.fields(active_);
    return true;
  }

 private:
  // The sum of what stays between iterations and the largest of what one needs beyond.
  static bool Admits(const ClusterInput& input, const ShareGroup& group, const JobView& newcomer) {
    if (input.profiles == nullptr || newcomer.profile < 0) return false;
    const double memory_gib = input.profiles->gpu_memory_gib;
    if (memory_gib <= 0 || group.size() >= kShareMax) return false;
    const JobProfile& own = input.profiles->of[newcomer.profile];
    double kept_gib = own.memory_gib, scratch_gib = own.scratch_gib;
    for (const JobIndex member : group) {
      const JobView& view = input.jobs[member.value()];
      if (view.profile < 0 || view.gpus != newcomer.gpus) return false;
      const JobProfile& profile = input.profiles->of[view.profile];
      kept_gib += profile.memory_gib;
      scratch_gib = std::max(scratch_gib, profile.scratch_gib);
    }
    return kept_gib + scratch_gib <= memory_gib;
  }

  std::vector<JobIndex> active_;
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeSalus(const ClusterPolicyOptions&) {
  return std::make_unique<Salus>();
}

}  // namespace tide::sched

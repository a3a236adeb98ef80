// singularity: three tiers; a higher one shrinks, then stops the lowest first; what is left over
// grows the highest.
#include <algorithm>

#include "sched/cluster_policies.h"
#include "sched/target_deal.h"

namespace tide::sched {
namespace {

class Singularity final : public TargetDeal {
 public:
  Singularity()
      : TargetDeal(
            {.start_reason = "it fits, and no job of its tier or a higher one is ahead of it",
             .resize_reason = "jobs of other tiers came or went",
             .preempt_reason = "jobs of a higher tier need its GPUs"}) {}
  std::unique_ptr<ClusterPolicy> Clone() const override {
    return std::make_unique<Singularity>(*this);
  }

 protected:
  bool VisitOwnState(PolicyArchive&) override { return true; }

  std::vector<int> Targets(const ClusterInput& input,
                           const std::vector<JobIndex>& active) override {
    std::vector<size_t> order(active.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    const auto view = [&](size_t i) -> const JobView& { return input.jobs[active[i].value()]; };
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      if (view(a).tier != view(b).tier) return view(a).tier > view(b).tier;
      return view(a).state == JobState::kRunning && view(b).state != JobState::kRunning;
    });
    std::vector<int> targets(active.size(), 0);
    int free = input.cluster.gpus;
    // First the least that each runs on, then what it asked for, then what it could use.
    for (const size_t i : order) {
      const int least = SizesOf(view(i), input.profiles).front();
      if (least > free) continue;
      targets[i] = least;
      free -= least;
    }
    for (const bool beyond : {false, true}) {
      for (const size_t i : order) {
        if (targets[i] == 0) continue;
        for (const int size : SizesOf(view(i), input.profiles)) {
          if (size <= targets[i] || size - targets[i] > free) continue;
          if (!beyond && size > view(i).gpus) break;
          free -= size - targets[i];
          targets[i] = size;
        }
      }
    }
    return targets;
  }
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeSingularity(const ClusterPolicyOptions&) {
  return std::make_unique<Singularity>();
}

}  // namespace tide::sched

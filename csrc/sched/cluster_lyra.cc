// lyra: the least of every job, shortest first; the GPUs left over by a knapsack over elastic jobs.
#include <algorithm>

#include "sched/cluster_policies.h"
#include "sched/knapsack.h"
#include "sched/reclaim.h"
#include "sched/target_deal.h"

namespace tide::sched {
namespace {

class Lyra final : public TargetDeal, public LoanPolicy {
 public:
  Lyra()
      : TargetDeal({.start_reason = "of the jobs whose base fits it is the shortest",
                    .resize_reason = "spare GPUs save most completion time so",
                    .preempt_reason = "there are fewer GPUs than the running jobs' bases need"}) {}
  std::unique_ptr<ClusterPolicy> Clone() const override { return std::make_unique<Lyra>(*this); }
  std::vector<int> Reclaim(const ReclaimInput& input) const override {
    return LeastPreemption(input);
  }

 protected:
  bool VisitOwnState(PolicyArchive&) override { return true; }

  std::vector<int> Targets(const ClusterInput& input,
                           const std::vector<JobIndex>& active) override {
    const auto view = [&](size_t i) -> const JobView& { return input.jobs[active[i].value()]; };
    std::vector<std::vector<int>> sizes;
    std::vector<size_t> order;
    for (size_t i = 0; i < active.size(); ++i) {
      sizes.push_back(SizesOf(view(i), input.profiles));
      order.push_back(i);
    }
    // Nobody loses its base to a shorter job; extra workers are given up at once.
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      const bool runs = view(a).state == JobState::kRunning;
      if (runs != (view(b).state == JobState::kRunning)) return runs;
      return view(a).duration_s < view(b).duration_s;
    });
    std::vector<int> targets(active.size(), 0);
    int free = input.cluster.gpus;
    for (const size_t i : order) {
      if (sizes[i][0] > free) continue;
      targets[i] = sizes[i][0];
      free -= targets[i];
    }
    std::vector<KnapsackItem> items;
    std::vector<size_t> item_of;
    for (size_t i = 0; i < active.size(); ++i) {
      if (targets[i] == 0 || sizes[i].size() < 2) continue;
      KnapsackItem item;
      const double base_s = RestWith(input, view(i), targets[i]);
      for (size_t k = 1; k < sizes[i].size(); ++k) {
        item.push_back({.weight = sizes[i][k] - targets[i],
                        .value = base_s - RestWith(input, view(i), sizes[i][k])});
      }
      items.push_back(std::move(item));
      item_of.push_back(i);
    }
    const std::vector<int> chosen = SolveKnapsack(items, free);
    for (size_t k = 0; k < items.size(); ++k) {
      if (chosen[k] >= 0) targets[item_of[k]] += items[k][chosen[k]].weight;
    }
    return targets;
  }

 private:
  static double RestWith(const ClusterInput& input, const JobView& job, int gpus) {
    return job.RemainingAt(input.now_s) / SpeedOf(job, input.profiles, gpus);
  }
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeLyra(const ClusterPolicyOptions&) {
  return std::make_unique<Lyra>();
}

}  // namespace tide::sched

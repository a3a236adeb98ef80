// sia-like: one configuration for each job so that the sum of goodput to a power is best, exactly.
#include <algorithm>
#include <cmath>

#include "sched/cluster_policies.h"
#include "sched/goodput.h"
#include "sched/knapsack.h"
#include "sched/target_deal.h"

namespace tide::sched {
namespace {

constexpr double kRound = 60;
constexpr double kPower = -0.5;        // of normalised goodput; below zero: the slow matter more
constexpr double kNoAllocation = 1.1;  // what a job without GPUs costs, over one with its least

class SiaLike final : public TargetDeal {
 public:
  SiaLike(double round_s, double restart_cost_s)
      : TargetDeal({.round_s = round_s,
                    .start_reason = "the best sum of goodputs has it run",
                    .resize_reason = "the best sum of goodputs has it at that size",
                    .preempt_reason = "the best sum of goodputs leaves it out of this round"}),
        restart_cost_s_(restart_cost_s) {}
  std::unique_ptr<ClusterPolicy> Clone() const override { return std::make_unique<SiaLike>(*this); }

 protected:
  bool VisitOwnState(PolicyArchive&) override { return true; }

  // On one type of GPU the integer program is a knapsack with one choice a job: solved exactly.
  std::vector<int> Targets(const ClusterInput& input,
                           const std::vector<JobIndex>& active) override {
    std::vector<KnapsackItem> items;
    std::vector<std::vector<int>> sizes;
    for (const JobIndex index : active) {
      const JobView& job = input.jobs[index.value()];
      sizes.push_back(SizesOf(job, input.profiles));
      const double least = SpeedOf(job, input.profiles, sizes.back().front());
      KnapsackItem item;
      for (const int size : sizes.back()) {
        double goodput = SpeedOf(job, input.profiles, size) / least;
        if (size != job.held) goodput *= RestartFactor(job, input.now_s, restart_cost_s_);
        const double value = kNoAllocation - std::pow(std::max(goodput, 1e-3), kPower);
        // The longest wait breaks ties, so that rigid jobs take turns in order of submission.
        item.push_back({.weight = size, .value = std::max(value, 1e-9)});
      }
      items.push_back(std::move(item));
    }
    const std::vector<int> chosen = SolveKnapsack(items, input.cluster.gpus);
    std::vector<int> targets(active.size(), 0);
    for (size_t i = 0; i < active.size(); ++i) {
      if (chosen[i] >= 0) targets[i] = sizes[i][chosen[i]];
    }
    return targets;
  }

 private:
  const double restart_cost_s_;
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeSiaLike(const ClusterPolicyOptions& options) {
  return std::make_unique<SiaLike>(options.round_s > 0 ? options.round_s : kRound,
                                   options.restart_cost_s > 0 ? options.restart_cost_s : 30);
}

}  // namespace tide::sched

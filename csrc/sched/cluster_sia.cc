// sia-like: one configuration for each job so that the sum of goodput to a power is best, exactly.
#include <algorithm>
#include <cmath>

#include "sched/cluster_policies.h"
#include "sched/goodput.h"
#include "sched/knapsack.h"
#include "sched/target_deal.h"
#include "sched/typed_knapsack.h"

namespace tide::sched {
namespace {

constexpr double kSiaRound = 60;
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
      const double least = GoodputOf(job, input.profiles, sizes.back().front());
      KnapsackItem item;
      for (const int size : sizes.back()) {
        const double speed = GoodputOf(job, input.profiles, size) / least;
        item.push_back({.weight = size, .value = Value(input, job, speed, size == job.held)});
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

  bool ChoosesTypes() const override { return true; }

  double BatchFor(const ClusterInput& input, const JobView& job, int gpus) const override {
    return BatchOf(job, input.profiles, gpus);
  }

  // One choice of (type, size) a job. A gang larger than every type goes when it is the first.
  std::vector<TypedTarget> TypedTargets(const ClusterInput& input,
                                        const std::vector<JobIndex>& active) override {
    const absl::Span<const int> gpus = input.cluster.gpus_by_type;
    const int largest = *std::max_element(gpus.begin(), gpus.end());
    std::vector<TypedTarget> targets(active.size());
    std::vector<TypedItem> items;
    for (size_t i = 0; i < active.size(); ++i) {
      const JobView& job = input.jobs[active[i].value()];
      const int least = SizesOf(job, input.profiles).front();
      if (i == 0 && least > largest && least <= input.cluster.gpus) {
        targets[0] = {.gpus = least, .type = -1};
        return targets;
      }
      items.push_back(ItemOf(input, job));
    }
    const std::vector<int> chosen = SolveTyped(items, gpus);
    for (size_t i = 0; i < active.size(); ++i) {
      if (chosen[i] < 0) continue;
      const TypedChoice& choice = items[i][chosen[i]];
      targets[i] = {.gpus = choice.weight, .type = choice.type};
    }
    return targets;
  }

 private:
  // Goodput over the least that the job can have, to the power, and what it costs to get there.
  double Value(const ClusterInput& input, const JobView& job, double goodput, bool stays) const {
    if (!stays) goodput *= RestartFactor(job, input.now_s, restart_cost_s_);
    // Never nothing: so rigid jobs take turns in order of submission.
    return std::max(kNoAllocation - std::pow(std::max(goodput, 1e-3), kPower), 1e-9);
  }

  TypedItem ItemOf(const ClusterInput& input, const JobView& job) const {
    TypedItem item;
    const std::vector<int> sizes = SizesOf(job, input.profiles);
    double least = kNever;
    const auto speed = [&](int type, int size) {
      return GoodputOf(job, input.profiles, size) * TypeSpeedOf(job, input.profiles, type);
    };
    const auto types = static_cast<int>(input.cluster.gpus_by_type.size());
    for (int type = 0; type < types; ++type) {
      if (speed(type, sizes.front()) > 0) least = std::min(least, speed(type, sizes.front()));
    }
    for (int type = 0; type < types; ++type) {
      for (const int size : sizes) {
        const double goodput = speed(type, size) / least;
        if (size > input.cluster.gpus_by_type[type] || goodput <= 0) continue;
        const bool stays = size == job.held && type == job.type;
        item.push_back({.type = type, .weight = size, .value = Value(input, job, goodput, stays)});
      }
    }
    return item;
  }

  const double restart_cost_s_;
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeSiaLike(const ClusterPolicyOptions& options) {
  return std::make_unique<SiaLike>(options.round_s > 0 ? options.round_s : kSiaRound,
                                   options.restart_cost_s > 0 ? options.restart_cost_s : 30);
}

}  // namespace tide::sched

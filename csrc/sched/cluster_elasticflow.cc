// elasticflow: a job is admitted when all deadlines can hold with it; spare GPUs go where they use
// the least GPU time.
#include <algorithm>
#include <cmath>

#include "absl/container/flat_hash_map.h"
#include "sched/cluster_policies.h"
#include "sched/slot_plan.h"
#include "sched/target_deal.h"

namespace tide::sched {
namespace {

constexpr double kSlot = 60;
constexpr int kSlotsMax = 20'000;  // two weeks of minutes; a later deadline counts as this one

class ElasticFlow final : public TargetDeal {
 public:
  explicit ElasticFlow(double slot_s)
      : TargetDeal({.round_s = slot_s,
                    .start_reason = "its deadline needs it now, or the GPUs are to spare",
                    .resize_reason = "the shares that the deadlines need have changed",
                    .preempt_reason = "deadlines of others need its GPUs in this slot"}),
        slot_s_(slot_s) {}
  std::unique_ptr<ClusterPolicy> Clone() const override {
    return std::make_unique<ElasticFlow>(*this);
  }

 protected:
  bool VisitOwnState(PolicyArchive& archive) override {
    archive.fields(plans_);
    return true;
  }

  // A plan is only ever replaced by one that keeps all promises, so none is broken while the
  // cluster keeps its GPUs and changes cost nothing.
  const char* Refusal(const ClusterInput& input, JobIndex newcomer) override {
    const JobView& job = input.jobs[newcomer.value()];
    if (job.deadline_s == kNever) return nullptr;
    const double begin_s = std::ceil(input.now_s / slot_s_) * slot_s_;  // the next slot
    std::vector<JobIndex> order{newcomer};
    for (const auto& [promised, plan] : plans_) {
      const JobState state = input.jobs[promised.value()].state;
      if (state == JobState::kRunning || state == JobState::kPending) order.push_back(promised);
    }
    std::sort(order.begin(), order.end(), [&](JobIndex a, JobIndex b) {
      const double first = input.jobs[a.value()].deadline_s;
      const double second = input.jobs[b.value()].deadline_s;
      return first != second ? first < second : a < b;
    });
    std::vector<SlotDemand> demands;
    for (const JobIndex index : order) demands.push_back(DemandOf(input, index, begin_s));
    const auto plans = PlanSlots(demands, input.cluster.gpus, slot_s_);
    if (!plans) return "its deadline cannot be met beside those already promised";
    plans_.clear();
    for (size_t i = 0; i < order.size(); ++i) {
      plans_[order[i]] = {.begin_s = begin_s, .gpus = (*plans)[i]};
    }
    return nullptr;
  }

  std::vector<int> Targets(const ClusterInput& input,
                           const std::vector<JobIndex>& active) override {
    std::vector<std::vector<int>> sizes;
    std::vector<int> targets(active.size(), 0);
    std::vector<size_t> order;
    int free = input.cluster.gpus;
    for (size_t i = 0; i < active.size(); ++i) {
      sizes.push_back(SizesOf(input.jobs[active[i].value()], input.profiles));
      order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return input.jobs[active[a].value()].deadline_s < input.jobs[active[b].value()].deadline_s;
    });
    for (const size_t i : order) {
      const int planned = std::min(PlannedNow(active[i], input.now_s), free);
      // After a fault there may be less than was planned.
      for (const int size : sizes[i]) targets[i] = size <= planned ? size : targets[i];
      free -= targets[i];
    }
    for (const size_t i : order) {  // those with nothing first
      if (targets[i] > 0 || sizes[i][0] > free) continue;
      targets[i] = sizes[i][0];
      free -= targets[i];
    }
    Gains(input, active).Raise(sizes, free, targets);
    return targets;
  }

 private:
  struct Plan {
    double begin_s = 0;
    SlotPlan gpus;
    void VisitFields(FieldArchive& archive) { archive(begin_s, gpus); }
  };

  SlotDemand DemandOf(const ClusterInput& input, JobIndex index, double begin_s) const {
    const JobView& job = input.jobs[index.value()];
    SlotDemand demand{.sizes = SizesOf(job, input.profiles)};
    for (const int size : demand.sizes) {
      demand.speeds.push_back(SpeedOf(job, input.profiles, size));
    }
    // What runs goes on until the slot begins.
    demand.work = job.duration_s - job.ExecutedAt(begin_s);
    const double slots = std::floor((job.deadline_s - begin_s) / slot_s_);
    demand.slots = static_cast<int>(std::clamp(slots, 0.0, static_cast<double>(kSlotsMax)));
    return demand;
  }

  int PlannedNow(JobIndex job, double now_s) const {
    const auto found = plans_.find(job);
    if (found == plans_.end()) return 0;
    const auto slot = static_cast<int64_t>(std::floor((now_s - found->second.begin_s) / slot_s_));
    const SlotPlan& gpus = found->second.gpus;
    return slot >= 0 && slot < static_cast<int64_t>(gpus.size()) ? gpus[slot] : 0;
  }

  // GPU time that the rest of the job takes, less of it is better; a GPU more always costs some, so
  // what is saved in time is put first.
  struct Gains : GreedyGain {
    Gains(const ClusterInput& input, const std::vector<JobIndex>& active)
        : input(input), active(active) {}
    double Gain(size_t index, int from, int to) const override {
      const JobView& job = input.jobs[active[index].value()];
      const double before = from / SpeedOf(job, input.profiles, from);
      const double after = to / SpeedOf(job, input.profiles, to);
      if (SpeedOf(job, input.profiles, to) <= SpeedOf(job, input.profiles, from)) return 0;
      // Always above zero; the larger, the less GPU time is added for a GPU.
      const double added = job.RemainingAt(input.now_s) * (after - before) / (to - from);
      return added >= 0 ? 1 / (1 + added) : 1 - added;
    }
    const ClusterInput& input;
    const std::vector<JobIndex>& active;
  };

  const double slot_s_;
  absl::flat_hash_map<JobIndex, Plan> plans_;  // of admitted jobs with deadlines, ended ones too
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeElasticFlow(const ClusterPolicyOptions& options) {
  return std::make_unique<ElasticFlow>(options.round_s > 0 ? options.round_s : kSlot);
}

}  // namespace tide::sched

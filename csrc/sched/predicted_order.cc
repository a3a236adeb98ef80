// An ordered queue by prediction; history is booked as jobs end.
#include "sched/predicted_order.h"

#include <limits>

#include "sched/duration_history.h"
#include "sched/gang_queue.h"

namespace tide::sched {
namespace {

class PredictedOrder final : public ClusterPolicy {
 public:
  explicit PredictedOrder(const PredictedOrderOptions& options) : options_(options) {}
  std::unique_ptr<ClusterPolicy> Clone() const override {
    return std::make_unique<PredictedOrder>(*this);
  }

  ClusterDecision Decide(const ClusterInput& input) override {
    for (const JobEvent& event : input.events) {
      const JobView& job = input.jobs[event.job.value()];
      if (event.kind != JobEventKind::kArrival) used_ -= job.gpus;
      if (event.kind == JobEventKind::kCompletion) {
        history_.Book(job);
        continue;
      }
      waiting_.Push({.key = history_.Predict(job) * (options_.by_gpu_time ? job.gpus : 1),
                     .rank = event.job.value(),
                     .job = event.job,
                     .gpus = job.gpus});
    }
    ClusterDecision decision;
    while (const GangEntry* first = Next(input.cluster.gpus - used_)) {
      const GangEntry taken = *first;
      waiting_.Erase(taken);
      used_ += taken.gpus;
      decision.actions.push_back(
          {.job = taken.job, .kind = JobActionKind::kStart, .reason = options_.reason});
    }
    return decision;
  }

  bool VisitState(PolicyArchive& archive) override {
    archive.fields(history_, waiting_, used_);
    return true;
  }

 private:
  const GangEntry* Next(int free) const {
    if (!options_.stop_at_misfit) return waiting_.First(free);
    const GangEntry* first = waiting_.First(std::numeric_limits<int>::max());
    return first != nullptr && first->gpus <= free ? first : nullptr;
  }

  const PredictedOrderOptions options_;
  DurationHistory history_;
  GangQueue waiting_;
  int used_ = 0;
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakePredictedOrder(const PredictedOrderOptions& options) {
  return std::make_unique<PredictedOrder>(options);
}

}  // namespace tide::sched

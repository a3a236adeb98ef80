// One ordered queue; each event costs what it starts.
#include "sched/gang_order.h"

#include "sched/gang_queue.h"

namespace tide::sched {
namespace {

class GangOrder final : public ClusterPolicy {
 public:
  GangOrder(double (*key)(const JobView&), const char* reason) : key_(key), reason_(reason) {}
  std::unique_ptr<ClusterPolicy> Clone() const override {
    return std::make_unique<GangOrder>(*this);
  }

  ClusterDecision Decide(const ClusterInput& input) override {
    for (const JobEvent& event : input.events) {
      const JobView& job = input.jobs[event.job.value()];
      if (event.kind != JobEventKind::kArrival) used_ -= job.gpus;
      if (event.kind == JobEventKind::kCompletion) continue;
      waiting_.Push(
          {.key = key_(job), .rank = event.job.value(), .job = event.job, .gpus = job.gpus});
    }
    ClusterDecision decision;
    while (const GangEntry* first = waiting_.First(input.cluster.gpus - used_)) {
      const GangEntry taken = *first;
      waiting_.Erase(taken);
      used_ += taken.gpus;
      decision.actions.push_back(
          {.job = taken.job, .kind = JobActionKind::kStart, .reason = reason_});
    }
    return decision;
  }

  bool VisitState(PolicyArchive& archive) override {
    archive.fields(waiting_, used_);
    return true;
  }

 private:
  double (*key_)(const JobView&);
  const char* reason_;
  GangQueue waiting_;
  int used_ = 0;
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeGangOrder(double (*key)(const JobView& job),
                                             const char* reason) {
  return std::make_unique<GangOrder>(key, reason);
}

}  // namespace tide::sched

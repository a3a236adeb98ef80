// fifo: gangs start in order of submission; the first that does not fit holds up all behind it.
#include <deque>

#include "sched/cluster_policies.h"

namespace tide::sched {
namespace {

class Fifo final : public ClusterPolicy {
 public:
  std::unique_ptr<ClusterPolicy> Clone() const override { return std::make_unique<Fifo>(*this); }

  ClusterDecision Decide(const ClusterInput& input) override {
    for (const JobEvent& event : input.events) {
      if (event.kind == JobEventKind::kArrival) {
        waiting_.push_back(event.job);
      } else {
        used_ -= input.jobs[event.job.value()].gpus;
      }
      if (event.kind == JobEventKind::kEviction) Return(event.job);
    }
    ClusterDecision decision;
    while (!waiting_.empty()) {
      const JobIndex job = waiting_.front();
      const int gpus = input.jobs[job.value()].gpus;
      if (used_ + gpus > input.cluster.gpus) break;
      used_ += gpus;
      waiting_.pop_front();
      decision.actions.push_back({.job = job,
                                  .kind = JobActionKind::kStart,
                                  .reason = "it is the first in line and fits"});
    }
    return decision;
  }

  bool VisitState(PolicyArchive& archive) override {
    archive.fields(waiting_, used_);
    return true;
  }

 private:
  // To its place in the order of submission; all that wait before it were evicted too.
  void Return(JobIndex job) {
    auto place = waiting_.begin();
    while (place != waiting_.end() && *place < job) ++place;
    waiting_.insert(place, job);
  }

  std::deque<JobIndex> waiting_;
  int used_ = 0;
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeFifo(const ClusterPolicyOptions&) {
  return std::make_unique<Fifo>();
}

}  // namespace tide::sched

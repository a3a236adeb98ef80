// edf-admit: earliest deadline first over the jobs whose deadlines can all be met; others are
// refused when they arrive.
#include <algorithm>

#include "sched/cluster_policies.h"

namespace tide::sched {
namespace {

// A job in the look ahead.
struct Promise {
  double deadline_s = 0;
  JobIndex job;
  int gpus = 0;
  double remaining_s = 0;
  bool running = false;
};

// Whether all deadlines hold if nothing else arrives. The rule is that of edf, which runs what is
// admitted: so what holds here holds there. O(n^2 log n) in the promises.
bool AllHold(std::vector<Promise> promises, int gpus, double now_s) {
  while (!promises.empty()) {
    std::sort(promises.begin(), promises.end(), [](const Promise& a, const Promise& b) {
      if (a.deadline_s != b.deadline_s) return a.deadline_s < b.deadline_s;
      return a.running != b.running ? a.running : a.job < b.job;
    });
    int free = gpus;
    double step_s = kNever;
    for (Promise& promise : promises) {
      promise.running = promise.gpus <= free;
      if (!promise.running) continue;
      free -= promise.gpus;
      step_s = std::min(step_s, promise.remaining_s);
    }
    if (step_s == kNever) return false;  // nothing fits
    now_s += step_s;
    for (Promise& promise : promises) {
      if (promise.running) promise.remaining_s -= step_s;
    }
    for (const Promise& promise : promises) {
      if (now_s + promise.remaining_s > promise.deadline_s) return false;
    }
    std::erase_if(promises, [](const Promise& promise) { return promise.remaining_s <= 0; });
  }
  return true;
}

class EdfAdmit final : public ClusterPolicy {
 public:
  EdfAdmit() : edf_(MakeEdf({})) {}
  EdfAdmit(const EdfAdmit& other) : edf_(other.edf_->Clone()), admitted_(other.admitted_) {}
  std::unique_ptr<ClusterPolicy> Clone() const override {
    return std::make_unique<EdfAdmit>(*this);
  }

  ClusterDecision Decide(const ClusterInput& input) override {
    std::erase_if(admitted_, [&](JobIndex job) {
      const JobState state = input.jobs[job.value()].state;
      return state != JobState::kRunning && state != JobState::kPending;
    });
    std::vector<JobEvent> events;  // that edf is told of
    std::vector<JobAction> refusals;
    for (const JobEvent& event : input.events) {
      const bool promised = input.jobs[event.job.value()].deadline_s != kNever;
      if (event.kind == JobEventKind::kArrival && promised) {
        if (!Admits(input, event.job)) {
          refusals.push_back(
              {.job = event.job,
               .kind = JobActionKind::kRefuse,
               .reason = "its deadline cannot be met beside those already promised"});
          continue;
        }
        admitted_.push_back(event.job);
      }
      events.push_back(event);
    }
    ClusterDecision decision = edf_->Decide(
        {.cluster = input.cluster, .jobs = input.jobs, .events = events, .now_s = input.now_s});
    decision.actions.insert(decision.actions.end(), refusals.begin(), refusals.end());
    return decision;
  }

  bool VisitState(PolicyArchive& archive) override {
    archive.fields(admitted_);
    return edf_->VisitState(archive);
  }

 private:
  bool Admits(const ClusterInput& input, JobIndex newcomer) const {
    std::vector<Promise> promises;
    const auto add = [&](JobIndex index) {
      const JobView& job = input.jobs[index.value()];
      promises.push_back({.deadline_s = job.deadline_s,
                          .job = index,
                          .gpus = job.gpus,
                          .remaining_s = job.RemainingAt(input.now_s),
                          .running = job.state == JobState::kRunning});
    };
    for (const JobIndex job : admitted_) add(job);
    add(newcomer);
    return AllHold(std::move(promises), input.cluster.gpus, input.now_s);
  }

  std::unique_ptr<ClusterPolicy> edf_;
  std::vector<JobIndex> admitted_;  // with deadlines, not ended
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeEdfAdmit(const ClusterPolicyOptions&) {
  return std::make_unique<EdfAdmit>();
}

}  // namespace tide::sched

// A merge of the running jobs, kept in order, with the heads of the waiting ones.
#include "sched/ranked_deal.h"

#include <algorithm>

#include "sched/gang_queue.h"

namespace tide::sched {
namespace {

class RankedDeal final : public ClusterPolicy {
 public:
  explicit RankedDeal(const RankedDealOptions& options) : options_(options) {}
  std::unique_ptr<ClusterPolicy> Clone() const override {
    return std::make_unique<RankedDeal>(*this);
  }

  ClusterDecision Decide(const ClusterInput& input) override {
    std::erase_if(running_, [&](const GangEntry& entry) {
      return input.jobs[entry.job.value()].state != JobState::kRunning;
    });
    for (const JobEvent& event : input.events) {
      if (event.kind == JobEventKind::kCompletion) continue;
      const JobView& job = input.jobs[event.job.value()];
      waiting_.Push({.key = options_.key(job),
                     .rank = event.job.value(),
                     .job = event.job,
                     .gpus = job.gpus});
    }
    ClusterDecision decision;
    int free = input.cluster.gpus;
    std::vector<GangEntry> started, preempted;
    const auto start_first_that = [&](auto wanted) {
      const GangEntry* first = waiting_.First(free);
      if (first == nullptr || !wanted(*first)) return false;
      started.push_back(*first);
      waiting_.Erase(started.back());
      free -= started.back().gpus;
      return true;
    };
    for (const GangEntry& running : running_) {
      while (start_first_that([&](const GangEntry& first) { return first.key < running.key; })) {
      }
      if (running.gpus > free) {
        preempted.push_back(running);
      } else {
        free -= running.gpus;
      }
    }
    while (start_first_that([](const GangEntry&) { return true; })) {
    }
    Carry(started, preempted, decision);
    return decision;
  }

  bool VisitState(PolicyArchive& archive) override {
    archive.fields(running_, waiting_);
    return true;
  }

 private:
  void Carry(const std::vector<GangEntry>& started, const std::vector<GangEntry>& preempted,
             ClusterDecision& decision) {
    for (const GangEntry& entry : preempted) {
      running_.erase(std::lower_bound(running_.begin(), running_.end(), entry));
      waiting_.Push(entry);
      decision.actions.push_back(
          {.job = entry.job, .kind = JobActionKind::kPreempt, .reason = options_.preempt_reason});
    }
    for (const GangEntry& entry : started) {
      running_.insert(std::lower_bound(running_.begin(), running_.end(), entry), entry);
      decision.actions.push_back(
          {.job = entry.job, .kind = JobActionKind::kStart, .reason = options_.start_reason});
    }
  }

  const RankedDealOptions options_;
  std::vector<GangEntry> running_;  // in order
  GangQueue waiting_;
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeRankedDeal(const RankedDealOptions& options) {
  return std::make_unique<RankedDeal>(options);
}

}  // namespace tide::sched

// Rounds are aligned to multiples of their length, so that they fall alike in every replay.
#include "sched/round_deal.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tide::sched {

ClusterDecision RoundDeal::Decide(const ClusterInput& input) {
  Note(input);
  TakeIn(input);
  ClusterDecision decision;
  if (input.now_s >= round_end_s_) {
    StartRound(input, decision.actions);
    round_end_s_ = (std::floor(input.now_s / options_.round_s) + 1) * options_.round_s;
  } else {
    FillIn(input, decision.actions);
  }
  if (!waiting_.empty()) decision.wake_s = round_end_s_;
  return decision;
}

void RoundDeal::TakeIn(const ClusterInput& input) {
  for (const JobEvent& event : input.events) {
    const JobView& job = input.jobs[event.job.value()];
    if (event.kind == JobEventKind::kArrival) {
      active_.push_back(event.job);
    } else {
      used_ -= job.gpus;
    }
    if (event.kind == JobEventKind::kCompletion) continue;
    waiting_.Push({.key = -std::numeric_limits<double>::infinity(),
                   .rank = event.job.value(),
                   .job = event.job,
                   .gpus = job.gpus});
  }
}

void RoundDeal::StartRound(const ClusterInput& input, std::vector<JobAction>& actions) {
  const auto state = [&](JobIndex job) { return input.jobs[job.value()].state; };
  std::erase_if(active_, [&](JobIndex job) {
    return state(job) != JobState::kRunning && state(job) != JobState::kPending;
  });
  const std::vector<double> keys = Keys(input, active_);
  std::vector<Candidate> order;
  order.reserve(active_.size());
  for (size_t i = 0; i < active_.size(); ++i) {
    const bool waits = state(active_[i]) == JobState::kPending;
    order.push_back({.key = keys[i], .waits = waits, .job = active_[i]});
  }
  std::sort(order.begin(), order.end(), [](const Candidate& a, const Candidate& b) {
    if (a.key != b.key) return a.key < b.key;
    return a.waits != b.waits ? b.waits : a.job < b.job;
  });
  waiting_ = GangQueue();
  used_ = 0;
  for (const Candidate& candidate : order) {
    const int gpus = input.jobs[candidate.job.value()].gpus;
    const bool takes = used_ + gpus <= input.cluster.gpus;
    if (takes) {
      used_ += gpus;
    } else {
      waiting_.Push({.key = candidate.key,
                     .rank = candidate.job.value(),
                     .job = candidate.job,
                     .gpus = gpus});
    }
    if (takes != candidate.waits) continue;
    actions.push_back({.job = candidate.job,
                       .kind = takes ? JobActionKind::kStart : JobActionKind::kPreempt,
                       .reason = takes ? options_.start_reason : options_.preempt_reason});
  }
}

void RoundDeal::FillIn(const ClusterInput& input, std::vector<JobAction>& actions) {
  while (const GangEntry* first = waiting_.First(input.cluster.gpus - used_)) {
    const GangEntry taken = *first;
    waiting_.Erase(taken);
    used_ += taken.gpus;
    actions.push_back(
        {.job = taken.job, .kind = JobActionKind::kStart, .reason = options_.start_reason});
  }
}

}  // namespace tide::sched

// The difference between targets and what jobs hold; a heap of steps for the greedy ones.
#include "sched/target_deal.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <queue>

namespace tide::sched {

ClusterDecision TargetDeal::Decide(const ClusterInput& input) {
  Note(input);
  ClusterDecision decision;
  TakeIn(input, decision.actions);
  const bool round = input.now_s >= round_end_s_ || options_.round_s <= 0;
  if (round && options_.round_s > 0) {
    round_end_s_ = (std::floor(input.now_s / options_.round_s) + 1) * options_.round_s;
  }
  const bool typed = ChoosesTypes() && input.cluster.gpus_by_type.size() > 1;
  if (typed) {
    std::vector<TypedTarget> targets;
    if (round) {
      targets = TypedTargets(input, active_);
    } else {
      for (const JobIndex index : active_) {
        const JobView& job = input.jobs[index.value()];
        targets.push_back({.gpus = job.held, .type = index == alone_ ? -1 : job.type});
      }
    }
    FillTyped(input, targets);
    ApplyTyped(input, targets, decision.actions);
  } else {
    std::vector<int> targets;
    if (round) {
      targets = Targets(input, active_);
    } else {
      for (const JobIndex job : active_) targets.push_back(input.jobs[job.value()].held);
    }
    Fill(input, targets);
    Apply(input, targets, decision.actions);
  }
  const bool changes = std::any_of(active_.begin(), active_.end(), [&](JobIndex index) {
    const JobView& job = input.jobs[index.value()];
    return typed || job.state == JobState::kPending || job.elastic();
  });
  if (changes && options_.round_s > 0) decision.wake_s = round_end_s_;
  return decision;
}

void TargetDeal::TakeIn(const ClusterInput& input, std::vector<JobAction>& actions) {
  std::erase_if(active_, [&](JobIndex job) {
    const JobState state = input.jobs[job.value()].state;
    return state != JobState::kRunning && state != JobState::kPending;
  });
  if (alone_.value() >= 0 && input.jobs[alone_.value()].state != JobState::kRunning) alone_ = {};
  for (const JobEvent& event : input.events) {
    if (event.kind != JobEventKind::kArrival) continue;
    if (const char* reason = Refusal(input, event.job); reason != nullptr) {
      actions.push_back({.job = event.job, .kind = JobActionKind::kRefuse, .reason = reason});
    } else {
      active_.push_back(event.job);
    }
  }
}

void TargetDeal::Fill(const ClusterInput& input, std::vector<int>& targets) const {
  int free = input.cluster.gpus;
  for (const int target : targets) free -= target;
  for (size_t i = 0; i < active_.size() && free > 0; ++i) {
    if (targets[i] > 0) continue;
    const int least = SizesOf(input.jobs[active_[i].value()], input.profiles).front();
    if (least > free) continue;
    targets[i] = least;
    free -= least;
  }
}

void TargetDeal::Apply(const ClusterInput& input, const std::vector<int>& targets,
                       std::vector<JobAction>& actions) {
  for (size_t i = 0; i < active_.size(); ++i) {
    const JobView& job = input.jobs[active_[i].value()];
    if (targets[i] == job.held) continue;
    JobAction action{.job = active_[i], .gpus = targets[i]};
    if (targets[i] > 0) action.batch = BatchFor(input, job, targets[i]);
    if (targets[i] == 0) {
      action.kind = JobActionKind::kPreempt;
      action.reason = options_.preempt_reason;
    } else if (job.held == 0) {
      action.reason = options_.start_reason;
    } else {
      action.kind = JobActionKind::kResize;
      action.reason = options_.resize_reason;
    }
    actions.push_back(action);
  }
}

// On the type that is fastest for it; when nothing runs, a gang larger than every type on all.
void TargetDeal::FillTyped(const ClusterInput& input, std::vector<TypedTarget>& targets) const {
  std::vector<int> free(input.cluster.gpus_by_type.begin(), input.cluster.gpus_by_type.end());
  bool idle = true;
  for (const auto& [gpus, type] : targets) {
    if (gpus == 0) continue;
    if (type < 0) return;
    free[type] -= gpus;
    idle = false;
  }
  for (size_t i = 0; i < active_.size(); ++i) {
    if (targets[i].gpus > 0) continue;
    const JobView& job = input.jobs[active_[i].value()];
    const int least = SizesOf(job, input.profiles).front();
    double fastest = 0;
    for (int type = 0; type < static_cast<int>(free.size()); ++type) {
      const double speed = TypeSpeedOf(job, input.profiles, type);
      if (least > free[type] || speed <= fastest) continue;
      fastest = speed;
      targets[i] = {.gpus = least, .type = type};
    }
    if (targets[i].gpus > 0) {
      free[targets[i].type] -= least;
      idle = false;
    } else if (idle && least <= input.cluster.gpus) {
      targets[i] = {.gpus = least, .type = -1};
      return;
    }
  }
}

void TargetDeal::ApplyTyped(const ClusterInput& input, const std::vector<TypedTarget>& targets,
                            std::vector<JobAction>& actions) {
  for (size_t i = 0; i < active_.size(); ++i) {
    const JobView& job = input.jobs[active_[i].value()];
    const auto [gpus, type] = targets[i];
    const bool moves = job.held > 0 && gpus > 0 && (active_[i] == alone_ ? -1 : job.type) != type;
    if (job.held > 0 && (gpus == 0 || moves)) {
      actions.push_back(
          {.job = active_[i], .kind = JobActionKind::kPreempt, .reason = options_.preempt_reason});
      if (active_[i] == alone_) alone_ = {};
    }
    const bool starts = gpus > 0 && (job.held == 0 || moves);
    if (!starts && (gpus == 0 || gpus == job.held)) continue;
    actions.push_back({.job = active_[i],
                       .kind = starts ? JobActionKind::kStart : JobActionKind::kResize,
                       .reason = starts ? options_.start_reason : options_.resize_reason,
                       .gpus = gpus,
                       .type = type,
                       .batch = BatchFor(input, job, gpus)});
    if (starts && type < 0) alone_ = active_[i];
  }
}

double TypeSpeedOf(const JobView& job, const Profiles* profiles, int type) {
  if (profiles == nullptr || job.profile < 0) return 1;
  const std::vector<double>& speed = profiles->of[job.profile].type_speed;
  return type < static_cast<int>(speed.size()) ? speed[type] : 1;
}

std::vector<int> SizesOf(const JobView& job, const Profiles* profiles) {
  if (!job.elastic() || profiles == nullptr || job.profile < 0 ||
      !profiles->of[job.profile].has_speed()) {
    return {job.gpus};
  }
  std::vector<int> sizes{job.gpus_min, job.gpus_max};
  if (job.gpus >= job.gpus_min && job.gpus <= job.gpus_max) sizes.push_back(job.gpus);
  for (int size = 1; size < job.gpus_max; size *= 2) {
    if (size > job.gpus_min) sizes.push_back(size);
  }
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  return sizes;
}

std::vector<int> AllSizesOf(const JobView& job, const Profiles* profiles) {
  std::vector<int> sizes = SizesOf(job, profiles);
  if (sizes.size() < 2) return sizes;
  sizes.resize(job.gpus_max - job.gpus_min + 1);
  std::iota(sizes.begin(), sizes.end(), job.gpus_min);
  return sizes;
}

void GreedyGain::Raise(const std::vector<std::vector<int>>& sizes, int free,
                       std::vector<int>& targets) const {
  struct Step {
    double gain;
    size_t index;
    int to;
  };
  const auto worse = [](const Step& a, const Step& b) {
    return a.gain != b.gain ? a.gain < b.gain : a.index > b.index;
  };
  std::priority_queue<Step, std::vector<Step>, decltype(worse)> steps(worse);
  const auto push = [&](size_t i) {
    const auto next = std::upper_bound(sizes[i].begin(), sizes[i].end(), targets[i]);
    if (targets[i] == 0 || next == sizes[i].end()) return;
    const double gain = Gain(i, targets[i], *next);
    if (gain > 0) steps.push({.gain = gain, .index = i, .to = *next});
  };
  for (size_t i = 0; i < targets.size(); ++i) push(i);
  while (!steps.empty() && free > 0) {
    const Step step = steps.top();
    steps.pop();
    const int more = step.to - targets[step.index];
    if (more > free) continue;
    free -= more;
    targets[step.index] = step.to;
    push(step.index);
  }
}

}  // namespace tide::sched

// When a job would start: the same engine on a copy, with estimates in place of ends.
#include <algorithm>

#include "coordinator/cluster_engine.h"

namespace tide::coordinator {

using sched::JobState;
using sched::JobView;
using sched::kNever;

std::unique_ptr<ClusterEngine> ClusterEngine::Copy() const {
  std::unique_ptr<ClusterEngine> copy(new ClusterEngine(options_, policy_->Clone()));
  copy->gate_ = gate_;
  copy->devices_ = devices_;
  copy->jobs_ = jobs_;
  copy->views_ = views_;
  copy->by_key_ = by_key_;
  copy->groups_ = groups_;
  copy->open_ = open_;
  copy->placed_ = placed_;
  copy->ends_ = ends_;
  copy->evictions_ = evictions_;
  copy->arrivals_ = arrivals_;
  copy->now_s_ = now_s_;
  copy->wake_s_ = wake_s_;
  copy->started_s_ = started_s_;
  copy->running_ = running_;
  copy->running_held_ = running_held_;
  copy->profiles_ = profiles_;
  copy->profile_of_group_ = profile_of_group_;
  copy->holdings_ = holdings_;
  copy->moving_ = moving_;
  copy->moving_devices_ = moving_devices_;
  return copy;
}

ClusterEngine::Forecast ClusterEngine::Preview(JobIndex job, int steps) const {
  return Copy()->RunForward(job, steps);
}

ClusterEngine::Forecast ClusterEngine::PreviewOf(const JobSpec& spec, int steps) const {
  const std::unique_ptr<ClusterEngine> copy = Copy();
  return copy->RunForward(copy->Submit(spec), steps);
}

// The jobs that end first, and `next_s` moved to that time when it is earlier.
std::vector<JobIndex> ClusterEngine::NextEnds(double& next_s, Forecast& forecast) const {
  std::vector<JobIndex> ending;
  for (const JobIndex index : open_) {
    const JobView& view = views_[index.value()];
    if (view.state != JobState::kRunning) continue;
    if (view.duration_s <= 0) {
      forecast.guessed = true;
      continue;
    }
    if (view.rate <= 0) continue;
    const double left_s = (view.duration_s - view.executed_s) / view.rate;
    const double end_s = std::max(now_s_, view.since_s + left_s);
    if (end_s > next_s) continue;
    if (end_s < next_s) ending.clear();
    next_s = end_s;
    ending.push_back(index);
  }
  return ending;
}

ClusterEngine::Forecast ClusterEngine::RunForward(JobIndex wanted, int steps) {
  Forecast forecast;
  double next_s = now_s_;
  for (int step = 0; step < steps && next_s != kNever; ++step) {
    const auto changes = Apply({.kind = ClusterInputKind::kDecide, .now_s = next_s});
    if (!changes.ok()) return forecast;
    for (const ClusterChange& change : *changes) {
      if (change.kind != ChangeKind::kStart) continue;
      if (change.job == wanted) {
        forecast.start_s = next_s;
        return forecast;
      }
      forecast.before.push_back(change.job);
    }
    next_s = std::max(wake_s(), now_s_);
    for (const JobIndex index : NextEnds(next_s, forecast)) {
      const ClusterInput end = {.kind = ClusterInputKind::kFinish,
                                .now_s = next_s,
                                .spec = {.key = jobs_[index.value()].spec.key}};
      if (!Apply(end).ok()) return forecast;
    }
  }
  return forecast;
}

}  // namespace tide::coordinator

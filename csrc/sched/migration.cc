// What is free by node, counted once.
#include "sched/migration.h"

#include <algorithm>

#include "absl/container/flat_hash_map.h"

namespace tide::sched {

JobIndex WorthMoving(const ClusterInput& input, const std::vector<JobIndex>& active,
                     double cost_s) {
  const ClusterView& cluster = input.cluster;
  if (cluster.nodes_of_jobs.empty() || cluster.gpus_per_node <= 0 ||
      !cluster.gpus_by_type.empty()) {
    return {};
  }
  const int largest = *std::max_element(cluster.free_by_node.begin(), cluster.free_by_node.end());
  const auto empty =
      std::count(cluster.free_by_node.begin(), cluster.free_by_node.end(), cluster.gpus_per_node);
  absl::flat_hash_map<int, int> sharing;  // jobs by holding
  for (const JobIndex job : active) ++sharing[input.jobs[job.value()].holding];
  for (const JobIndex index : active) {
    const JobView& job = input.jobs[index.value()];
    if (job.state != JobState::kRunning || job.held == 0 || sharing[job.holding] > 1) continue;
    const int needed = (job.held + cluster.gpus_per_node - 1) / cluster.gpus_per_node;
    if (cluster.nodes_of_jobs[index.value()] <= needed) continue;
    const bool fits = needed == 1 ? largest >= job.held : empty >= needed;
    const double whole = SpeedOf(job, input.profiles, job.held);
    if (!fits || job.rate <= 0 || job.rate >= whole) continue;
    const double lost_s = (input.now_s - job.since_s) * (whole - job.rate);
    if (lost_s > cost_s) return index;
  }
  return {};
}

void MoveOne(const ClusterInput& input, const std::vector<JobIndex>& active, double cost_s,
             double pause_s, ClusterDecision& decision) {
  if (!decision.actions.empty()) return;
  const JobIndex job = WorthMoving(input, active, cost_s);
  if (job.value() < 0) return;
  constexpr const char* kReason = "it is on more nodes than it needs, and fewer have room now";
  decision.actions.push_back({.job = job, .kind = JobActionKind::kPreempt, .reason = kReason});
  decision.actions.push_back({.job = job, .reason = kReason, .gpus = input.jobs[job.value()].held});
  decision.wake_s = std::min(decision.wake_s, input.now_s + pause_s);
}

}  // namespace tide::sched

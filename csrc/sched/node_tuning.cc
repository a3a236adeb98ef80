// One resource after the other.
#include "sched/node_tuning.h"

#include <algorithm>
#include <numeric>

namespace tide::sched {
namespace {

// The parts of one resource of which there is `all`; `curve` of who says nothing is null.
std::vector<double> Divide(absl::Span<const NodeDemand> jobs, int gpus, double all,
                           SpeedCurve JobProfile::*curve) {
  std::vector<double> parts, enough;
  double spare = all;
  for (const NodeDemand& job : jobs) {
    const double own = all * job.gpus / gpus;
    const bool known = job.profile != nullptr && !(job.profile->*curve).empty();
    enough.push_back(known ? EnoughOf(job.profile->*curve) * job.gpus : own);
    parts.push_back(std::min(own, enough.back()));
    spare -= parts.back();
  }
  std::vector<size_t> order(jobs.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return jobs[a].gpus != jobs[b].gpus ? jobs[a].gpus > jobs[b].gpus : enough[a] > enough[b];
  });
  for (const size_t job : order) {
    const double more = std::clamp(enough[job] - parts[job], 0.0, std::max(0.0, spare));
    parts[job] += more;
    spare -= more;
  }
  return parts;
}

}  // namespace

std::vector<NodePart> ProportionalParts(absl::Span<const NodeDemand> jobs, const NodeSize& node) {
  std::vector<NodePart> parts;
  for (const NodeDemand& job : jobs) {
    parts.push_back({.cpus = node.cpus * job.gpus / node.gpus,
                     .memory_gib = node.memory_gib * job.gpus / node.gpus});
  }
  return parts;
}

std::vector<NodePart> TunedParts(absl::Span<const NodeDemand> jobs, const NodeSize& node) {
  const std::vector<double> cpus = Divide(jobs, node.gpus, node.cpus, &JobProfile::cpu_speed);
  const std::vector<double> memory =
      Divide(jobs, node.gpus, node.memory_gib, &JobProfile::host_speed);
  std::vector<NodePart> parts;
  for (size_t i = 0; i < jobs.size(); ++i) {
    parts.push_back({.cpus = cpus[i], .memory_gib = memory[i]});
  }
  return parts;
}

double HostSpeed(const NodeDemand& job, const NodePart& part, const NodeSize& node) {
  if (job.profile == nullptr) return 1;
  const auto speed = [&](const SpeedCurve& curve, double had) {
    return curve.empty() ? 1 : SpeedAt(curve, had / job.gpus) / SpeedAt(curve, EnoughOf(curve));
  };
  return (node.cpus > 0 ? speed(job.profile->cpu_speed, part.cpus) : 1) *
         (node.memory_gib > 0 ? speed(job.profile->host_speed, part.memory_gib) : 1);
}

}  // namespace tide::sched

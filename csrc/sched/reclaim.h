// Which of the machines that were lent to the cluster go back when their owner wants some of them.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "sched/cluster_policy.h"

namespace tide::sched {

/// GPUs of one job on a lent machine.
struct LentShare {
  JobIndex job;
  int gpus = 0;
};
struct LentNode {
  int node = 0;
  std::vector<LentShare> shares;
};

struct ReclaimInput {
  absl::Span<const LentNode> lent;  // by ascending number
  int count = 0;                    // so many go back
  absl::Span<const JobView> jobs;
  absl::Span<const int> nodes_of_jobs;  // machines that each job is on, lent or not
  const Profiles* profiles = nullptr;   // null: no job is known to run on fewer GPUs
};

/// A policy that has a say in what goes back. Of others the machines with the highest numbers go,
/// and all that runs on them stops.
class LoanPolicy {
 public:
  virtual ~LoanPolicy() = default;
  /// Numbers of `count` machines. Elastic jobs on them that can do with less shrink, others stop.
  virtual std::vector<int> Reclaim(const ReclaimInput& input) const = 0;
};

/// One machine after the other, each time the one whose jobs cost least: a job that can shrink off
/// it costs nothing, one that has been stopped already neither, each other one over the number of
/// its machines (Lyra, EuroSys 2023). Of equal ones the one with fewest GPUs in use, then the last.
std::vector<int> LeastPreemption(const ReclaimInput& input);

}  // namespace tide::sched

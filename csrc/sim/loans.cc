// Loans that overlap add up; where one ends as another begins, machines stay.
#include "sim/loans.h"

#include <algorithm>
#include <map>

#include "sched/reclaim.h"

namespace tide::sim {

Loans::Loans(const ClusterSpec& cluster) {
  std::map<double, int> steps;
  for (const Loan& loan : cluster.loans) {
    steps[loan.from_s] += loan.nodes;
    steps[loan.to_s] -= loan.nodes;
  }
  int lent = 0;
  for (const auto& [at_s, step] : steps) {
    lent += step;
    if (step != 0) steps_.push_back({.at_s = at_s, .lent = lent});
  }
  for (int node = 0; node < cluster.NodesLent(); ++node) away_.insert(cluster.Nodes() + node);
}

Loans::Change Loans::Pop(const sched::ClusterPolicy& policy, const Holdings& holdings,
                         absl::Span<const sched::JobView> jobs, const sched::Profiles& profiles) {
  Change change;
  const int lent = steps_[next_++].lent;
  while (static_cast<int>(here_.size()) < lent) {
    change.come.push_back(*away_.begin());
    here_.insert(away_.extract(away_.begin()));
  }
  const int count = static_cast<int>(here_.size()) - lent;
  if (count == 0) return change;
  if (const auto* chooser = dynamic_cast<const sched::LoanPolicy*>(&policy)) {
    change.shrinks = true;
    std::vector<sched::LentNode> nodes;
    std::vector<int> nodes_of_jobs(jobs.size(), 0);
    for (const int node : here_) {
      sched::LentNode& entry = nodes.emplace_back(sched::LentNode{.node = node});
      for (const int job : holdings.JobsOn(node)) {
        for (const NodeShare& share : holdings.NodesOf(job)) {
          if (share.node != node) continue;
          entry.shares.push_back({.job = sched::JobIndex(job), .gpus = share.gpus});
        }
        nodes_of_jobs[job] = static_cast<int>(holdings.NodesOf(job).size());
      }
    }
    change.go = chooser->Reclaim({.lent = nodes,
                                  .count = count,
                                  .jobs = jobs,
                                  .nodes_of_jobs = nodes_of_jobs,
                                  .profiles = &profiles});
  } else {
    change.go.assign(here_.rbegin(), std::next(here_.rbegin(), count));
  }
  for (const int node : change.go) away_.insert(here_.extract(node));
  return change;
}

}  // namespace tide::sim

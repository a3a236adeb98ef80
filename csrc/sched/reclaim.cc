// Greedy: what a machine costs changes with those chosen before it.
#include "sched/reclaim.h"

#include <algorithm>
#include <map>
#include <tuple>

namespace tide::sched {
namespace {

class Choice {
 public:
  explicit Choice(const ReclaimInput& input) : input_(input) {}

  double CostOf(const LentNode& node) const {
    double cost = 0;
    for (const LentShare& share : node.shares) {
      if (Spare(share.job) >= share.gpus) continue;
      cost += 1.0 / std::max(1, input_.nodes_of_jobs[share.job.value()]);
    }
    return cost;
  }

  void Take(const LentNode& node) {
    for (const LentShare& share : node.shares) {
      const int spare = Spare(share.job);
      spare_[share.job] = spare >= share.gpus ? spare - share.gpus : kStopped;
    }
  }

 private:
  static constexpr int kStopped = 1 << 30;  // of a job that runs no more: it costs nothing further

  // GPUs that a job can do without.
  int Spare(JobIndex job) const {
    if (const auto found = spare_.find(job); found != spare_.end()) return found->second;
    const JobView& view = input_.jobs[job.value()];
    if (!view.elastic() || SpeedOf(view, input_.profiles, view.GpusMin()) <= 0) return 0;
    return view.held - view.GpusMin();
  }

  const ReclaimInput& input_;
  std::map<JobIndex, int> spare_;
};

int GpusOn(const LentNode& node) {
  int gpus = 0;
  for (const LentShare& share : node.shares) gpus += share.gpus;
  return gpus;
}

}  // namespace

std::vector<int> LeastPreemption(const ReclaimInput& input) {
  Choice choice(input);
  std::vector<const LentNode*> left;
  for (const LentNode& node : input.lent) left.push_back(&node);
  std::vector<int> chosen;
  while (!left.empty() && static_cast<int>(chosen.size()) < input.count) {
    const auto rank = [&](const LentNode* node) {
      return std::tuple(choice.CostOf(*node), GpusOn(*node), -node->node);
    };
    const auto least =
        std::min_element(left.begin(), left.end(),
                         [&](const LentNode* a, const LentNode* b) { return rank(a) < rank(b); });
    choice.Take(**least);
    chosen.push_back((*least)->node);
    left.erase(least);
  }
  return chosen;
}

}  // namespace tide::sched

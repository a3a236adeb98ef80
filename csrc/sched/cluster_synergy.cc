// synergy: least remaining seconds first, in rounds; CPUs and memory of a node go to who makes
// something of them.
#include <algorithm>

#include "sched/cluster_policies.h"
#include "sched/node_tuning.h"
#include "sched/round_deal.h"

namespace tide::sched {
namespace {

constexpr double kSynergyRound = 300;

class Synergy final : public RoundDeal, public NodeTuner {
 public:
  explicit Synergy(double round_s)
      : RoundDeal({.round_s = round_s,
                   .start_reason = "of the jobs that fit it has the least left",
                   .preempt_reason = "jobs that have less left go first in this round"}) {}
  std::unique_ptr<ClusterPolicy> Clone() const override { return std::make_unique<Synergy>(*this); }
  std::vector<NodePart> Divide(absl::Span<const NodeDemand> jobs,
                               const NodeSize& node) const override {
    return TunedParts(jobs, node);
  }

 protected:
  bool VisitOwnState(PolicyArchive&) override { return true; }

  std::vector<double> Keys(const ClusterInput& input,
                           const std::vector<JobIndex>& active) override {
    std::vector<double> keys;
    keys.reserve(active.size());
    for (const JobIndex job : active) {
      keys.push_back(input.jobs[job.value()].RemainingAt(input.now_s));
    }
    return keys;
  }
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeSynergy(const ClusterPolicyOptions& options) {
  return std::make_unique<Synergy>(options.round_s > 0 ? options.round_s : kSynergyRound);
}

}  // namespace tide::sched

// Received over owed, smallest first.
#include "sched/share_rounds.h"

#include <algorithm>

#include "sched/round_deal.h"

namespace tide::sched {
namespace {

class ShareRounds final : public RoundDeal {
 public:
  explicit ShareRounds(const ShareRoundsOptions& options)
      : RoundDeal({.round_s = options.round_s,
                   .start_reason = options.start_reason,
                   .preempt_reason = options.preempt_reason}),
        options_(options) {}
  std::unique_ptr<ClusterPolicy> Clone() const override {
    return std::make_unique<ShareRounds>(*this);
  }

 protected:
  bool VisitOwnState(PolicyArchive&) override { return true; }

  std::vector<double> Keys(const ClusterInput& input,
                           const std::vector<JobIndex>& active) override {
    std::vector<ShareDemand> demands;
    demands.reserve(active.size());
    const double gpus = std::max(1, input.cluster.gpus);  // all nodes may have failed
    const double count = static_cast<double>(active.size());
    for (const JobIndex index : active) {
      const JobView& job = input.jobs[index.value()];
      const double equal_share = std::min(1.0, gpus / (count * job.gpus));
      demands.push_back({.gpus = job.gpus,
                         .elapsed_s = input.now_s - job.submit_s,
                         .remaining_s = std::max(0.0, job.RemainingAt(input.now_s)),
                         .alone_s = std::max(1e-9, job.duration_s / equal_share)});
    }
    const std::vector<double> shares = options_.shares(demands, gpus);
    std::vector<double> keys;
    keys.reserve(active.size());
    for (size_t i = 0; i < active.size(); ++i) {
      const double ran_s = input.jobs[active[i].value()].ExecutedAt(input.now_s);
      const double owed_s = shares[i] * demands[i].elapsed_s;
      // Who has never run goes first, in the order of what it is owed at the end of this round.
      const double first = -shares[i] * (demands[i].elapsed_s + options_.round_s);
      keys.push_back(ran_s <= 0 ? first : owed_s > 0 ? ran_s / owed_s : kNever);
    }
    return keys;
  }

 private:
  const ShareRoundsOptions options_;
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeShareRounds(const ShareRoundsOptions& options) {
  return std::make_unique<ShareRounds>(options);
}

}  // namespace tide::sched

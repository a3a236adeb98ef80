// afs: GPU by GPU to the job with top priority, which weighs being short against using a GPU well.
#include <algorithm>

#include "sched/cluster_policies.h"
#include "sched/target_deal.h"

namespace tide::sched {
namespace {

class Afs final : public TargetDeal {
 public:
  Afs()
      : TargetDeal({.start_reason = "it has top priority for the GPUs that are free",
                    .resize_reason = "top priority for a GPU has moved",
                    .preempt_reason = "shorter jobs have top priority for its GPUs"}) {}
  std::unique_ptr<ClusterPolicy> Clone() const override { return std::make_unique<Afs>(*this); }

 protected:
  bool VisitOwnState(PolicyArchive&) override { return true; }

  std::vector<int> Targets(const ClusterInput& input,
                           const std::vector<JobIndex>& active) override {
    std::vector<Share> shares;
    for (const JobIndex index : active) {
      const JobView& job = input.jobs[index.value()];
      Share share{.job = &job, .remaining_s = std::max(0.0, job.RemainingAt(input.now_s))};
      share.sizes = AllSizesOf(job, input.profiles);
      for (const int size : share.sizes) {
        share.speeds.push_back(SpeedOf(job, input.profiles, size));
      }
      shares.push_back(std::move(share));
    }
    int free = input.cluster.gpus;
    while (free > 0) {
      Share* top = nullptr;
      for (Share& share : shares) {
        if (share.level == share.sizes.size() || share.More() > free) continue;
        if (top == nullptr || Beats(share, *top)) top = &share;
      }
      if (top == nullptr) break;
      free -= top->More();
      ++top->level;
    }
    std::vector<int> targets;
    for (const Share& share : shares) targets.push_back(share.Gpus());
    return targets;
  }

 private:
  // A job while GPUs are handed out: it has the first `level` of its sizes.
  struct Share {
    const JobView* job;
    double remaining_s = 0;
    std::vector<int> sizes;
    std::vector<double> speeds;
    size_t level = 0;

    int Gpus() const { return level == 0 ? 0 : sizes[level - 1]; }
    int More() const { return sizes[level] - Gpus(); }
    double Speed() const { return level == 0 ? 0 : speeds[level - 1]; }
    double Gain() const { return (speeds[level] - Speed()) / More(); }
    double Length() const { return level == 0 ? kNever : remaining_s / speeds[level - 1]; }
  };

  // Whether `b`, which comes later, takes the priority from `champion`.
  static bool Beats(const Share& b, const Share& champion) {
    if (b.level == 0 && champion.level == 0) return b.remaining_s < champion.remaining_s;
    const bool b_shorter = b.Length() < champion.Length();
    const Share& shorter = b_shorter ? b : champion;
    const Share& longer = b_shorter ? champion : b;
    const bool longer_wins = longer.Gain() / longer.speeds[longer.level] >
                             shorter.Gain() / std::max(1e-300, shorter.Speed());
    return longer_wins != b_shorter;
  }
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeAfs(const ClusterPolicyOptions&) {
  return std::make_unique<Afs>();
}

}  // namespace tide::sched

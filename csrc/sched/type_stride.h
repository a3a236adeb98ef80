// Fair shares of several types of GPU, traded between users and dealt out by a stride in rounds.
#pragma once

#include <array>
#include <map>
#include <utility>
#include <vector>

#include "sched/cluster_policy.h"
#include "sched/gang_queue.h"
#include "sched/gpu_trade.h"

namespace tide::sched {

/// Each round, the users' shares of each type are computed and traded anew, and split over a user's
/// jobs, none above its gang. On each type who has had the least of its share goes first; GPUs that
/// are nobody's share go to who waits. A gang larger than every type runs alone, on all types, for
/// its user's part of the rounds. A round costs O(n log n) in the jobs that run or wait.
class TypeStride final : public ClusterPolicy {
 public:
  explicit TypeStride(double round_s) : round_s_(round_s) {}
  std::unique_ptr<ClusterPolicy> Clone() const override {
    return std::make_unique<TypeStride>(*this);
  }
  ClusterDecision Decide(const ClusterInput& input) override;
  bool VisitState(PolicyArchive& archive) override;

 private:
  using ByType = std::array<double, kGpuTypesMax>;
  struct Account {
    ByType pass{};    // time on the cluster's clock of its share; comes to the clock's on average
    ByType share{};   // GPUs of each type, of the last round
    double turn = 0;  // rounds alone that a gang larger than every type has coming
    bool joined = false;
    void VisitFields(FieldArchive& archive) { archive(pass, share, turn, joined); }
  };
  struct Run {
    JobIndex job;
    int type = -1;  // -1: alone, on all
    double from_s = 0;
    void VisitFields(FieldArchive& archive) { archive(job, type, from_s); }
  };

  void TakeIn(const ClusterInput& input);
  void Charge(const ClusterInput& input, const Run& run);
  std::vector<JobIndex> Active(const ClusterInput& input);
  void ComputeShares(const ClusterInput& input, const std::vector<JobIndex>& typed);
  JobIndex NextAlone(const std::vector<JobIndex>& wide, bool others, size_t users);
  void StartRound(const ClusterInput& input, std::vector<JobAction>& actions);
  std::vector<int> DealTypes(const ClusterInput& input, const std::vector<JobIndex>& typed);
  void FillIn(const ClusterInput& input, std::vector<JobAction>& actions);
  int FastestFree(const ClusterInput& input, JobIndex job, const std::vector<int>& free) const;
  double LeastPass(JobIndex job) const;

  const double round_s_;
  std::vector<JobIndex> active_;  // in order of submission; those that ended go at the next round
  std::vector<Account> accounts_;
  std::vector<Run> running_;
  GangQueue waiting_;
  ByType clock_{};             // of each type: GPU time had over shares, of all
  ByType shared_{};            // sum of shares in the last round
  std::vector<size_t> order_;  // types, the fastest first
  double round_end_s_ = 0;
};

}  // namespace tide::sched

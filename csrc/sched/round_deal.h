// What the policies of rounds share: at the start of a round all GPUs are dealt out anew by key;
// within one, only GPUs that come free are.
#pragma once

#include <memory>
#include <vector>

#include "sched/cluster_policy.h"
#include "sched/gang_queue.h"

namespace tide::sched {

/// Derive and say in which order jobs go. A round starts at each multiple of its length at which a
/// job waits; it costs O(n log n) in the jobs that run or wait, an event between two costs what it
/// starts. A newcomer goes first until the next round: it has had nothing.
class RoundDeal : public ClusterPolicy {
 public:
  struct Options {
    double round_s = 360;
    const char* start_reason = "";
    const char* preempt_reason = "";
  };
  explicit RoundDeal(const Options& options) : options_(options) {}
  ClusterDecision Decide(const ClusterInput& input) final;
  bool VisitState(PolicyArchive& archive) final {
    archive.fields(active_, waiting_, used_, round_end_s_);
    return VisitOwnState(archive);
  }

 protected:
  /// One key for each of `active`, smaller goes first. `active` are the jobs that run or wait, in
  /// order of submission. Equal keys: running first, then order of submission.
  virtual std::vector<double> Keys(const ClusterInput& input,
                                   const std::vector<JobIndex>& active) = 0;
  /// Sees every event before anything is decided.
  virtual void Note(const ClusterInput&) {}
  /// Saves or loads what the derived policy remembers, and returns true, also for nothing.
  virtual bool VisitOwnState(PolicyArchive&) { return false; }

 private:
  struct Candidate {
    double key;
    bool waits;
    JobIndex job;
  };
  void TakeIn(const ClusterInput& input);
  void StartRound(const ClusterInput& input, std::vector<JobAction>& actions);
  void FillIn(const ClusterInput& input, std::vector<JobAction>& actions);

  const Options options_;
  std::vector<JobIndex> active_;  // in order of submission; those that ended go at the next round
  GangQueue waiting_;
  int used_ = 0;
  double round_end_s_ = 0;
};

}  // namespace tide::sched

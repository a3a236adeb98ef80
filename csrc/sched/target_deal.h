// What the policies of elastic jobs share: how many GPUs each job should have becomes starts,
// resizes and preemptions.
#pragma once

#include <memory>
#include <vector>

#include "sched/cluster_policy.h"

namespace tide::sched {

/// Derive and say how many GPUs each job gets. With rounds that happens at multiples of their
/// length, without at each event; between, waiting jobs take free GPUs at their smallest size in
/// order of submission. What the targets leave free goes to waiting jobs in the same way.
///
/// A policy that chooses types says one for each target. A gang that is larger than every type runs
/// alone, on all of them.
class TargetDeal : public ClusterPolicy {
 public:
  struct Options {
    double round_s = 0;  // 0: at each event
    const char* start_reason = "";
    const char* resize_reason = "";
    const char* preempt_reason = "";
  };
  explicit TargetDeal(const Options& options) : options_(options) {}
  ClusterDecision Decide(const ClusterInput& input) final;
  bool VisitState(PolicyArchive& archive) final {
    archive.fields(active_, alone_, round_end_s_);
    return VisitOwnState(archive);
  }

 protected:
  /// GPUs of each of `active`, jobs that run or wait in order of submission: 0 or a number that the
  /// job runs on. Their sum may not exceed the cluster.
  virtual std::vector<int> Targets(const ClusterInput& input,
                                   const std::vector<JobIndex>& active) = 0;
  /// The same on several types of GPU, of a policy that ChoosesTypes; -1: alone on all of them.
  struct TypedTarget {
    int gpus = 0;
    int type = -1;
  };
  virtual std::vector<TypedTarget> TypedTargets(const ClusterInput&, const std::vector<JobIndex>&) {
    return {};
  }
  virtual bool ChoosesTypes() const { return false; }
  /// Examples a step of a job that starts on, or is resized to, so many GPUs; 0: its own.
  virtual double BatchFor(const ClusterInput&, const JobView&, int /*gpus*/) const { return 0; }
  /// Asked once for each job that arrives; a reason refuses it.
  virtual const char* Refusal(const ClusterInput&, JobIndex) { return nullptr; }
  /// Sees every event before anything is decided.
  virtual void Note(const ClusterInput&) {}
  /// Saves or loads what the derived policy remembers, and returns true, also for nothing.
  virtual bool VisitOwnState(PolicyArchive&) { return false; }

 private:
  void TakeIn(const ClusterInput& input, std::vector<JobAction>& actions);
  void Apply(const ClusterInput& input, const std::vector<int>& targets,
             std::vector<JobAction>& actions);
  void Fill(const ClusterInput& input, std::vector<int>& targets) const;
  void FillTyped(const ClusterInput& input, std::vector<TypedTarget>& targets) const;
  void ApplyTyped(const ClusterInput& input, const std::vector<TypedTarget>& targets,
                  std::vector<JobAction>& actions);

  const Options options_;
  std::vector<JobIndex> active_;
  JobIndex alone_;  // runs on all types
  double round_end_s_ = 0;
};

/// Speed of a GPU of that type for the job, over the type that its duration is of.
double TypeSpeedOf(const JobView& job, const Profiles* profiles, int type);

/// The numbers of GPUs that an elastic job is offered: its smallest and largest, its gang and the
/// powers of two between, ascending. A job that is not elastic, or whose speed is not known, has
/// its gang.
std::vector<int> SizesOf(const JobView& job, const Profiles* profiles);

/// All numbers of GPUs from its smallest to its largest, for policies that go GPU by GPU.
std::vector<int> AllSizesOf(const JobView& job, const Profiles* profiles);

/// Hands out `free` more GPUs step by step, each to the job with the largest `gain` per GPU above
/// zero; a step goes to the next of a job's sizes. Ties go to the first. Each entry of `targets` is
/// 0 or one of the sizes; jobs at 0 take no part.
class GreedyGain {
 public:
  virtual ~GreedyGain() = default;
  /// What job `index` gains by `to` instead of `from` GPUs, divided by the difference.
  virtual double Gain(size_t index, int from, int to) const = 0;
  void Raise(const std::vector<std::vector<int>>& sizes, int free, std::vector<int>& targets) const;
};

}  // namespace tide::sched

// Who holds which GPUs, alone or together, and how fast each job runs there.
#pragma once

#include <algorithm>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/types/span.h"
#include "sched/corun.h"
#include "sched/node_tuning.h"
#include "sim/cluster_spec.h"
#include "sim/placement.h"

namespace tide::sim {

/// The GPUs of the cluster, by type, given to jobs. A change of who holds what, or of a node, is

class Holdings {
 public:
  /// All are borrowed; `tuner` null: CPUs and memory are divided as GPUs are.
  Holdings(const ClusterSpec& cluster, const sched::Profiles& profiles, size_t jobs,
           const sched::NodeTuner* tuner = nullptr);

  /// `type` -1: a type that has all of them, the first, else of several. False: not so many are
  /// free.
  bool Start(int job, int profile, int gpus, int type);
  /// On the GPUs of `host`, which holds some. False: it does not, or too many are there already.
  bool Share(int job, int profile, int host, double pace);
  /// Of a job that is alone on its GPUs, which stay as far as they can. False: not so many are
  /// free.
  bool Resize(int job, int gpus);
  void SetPace(int job, double pace);
  /// GPUs come free when nobody else is on them.
  void Release(int job);

  /// Jobs on the node lose their GPUs' use; the caller releases them.
  std::vector<int> JobsOn(int node) const;
  void Fail(int node);
  void Repair(int node);
  /// A job that is alone on its GPUs leaves a node; it keeps the others.
  void Leave(int job, int node);
  /// A cut link stops every job that is on this node and on another.
  void SetLink(int node, bool works);
  /// Jobs on the node run at `speed` at most.
  void SetSpeed(int node, double speed);

  /// Service a second on what the job holds, over that of its gang alone; `size_speed` is what the
  /// number of GPUs makes of it.
  double RateOf(int job, double size_speed) const;
  const std::vector<int>& touched() const { return touched_; }
  void ClearTouched() { touched_.clear(); }

  int Held(int job) const;
  int HoldingOf(int job) const { return holding_of_[job]; }
  int TypeOf(int job) const;
  bool IsSpread(int job) const;
  const Allocation& NodesOf(int job) const;
  int free() const;
  int gpus_working() const;
  int gpus() const { return gpus_; }
  int UsedOf(int type) const;
  /// Working GPUs of each type, and free ones of each node.
  absl::Span<const int> by_type() const { return by_type_; }
  absl::Span<const int> free_by_node() const { return free_by_node_; }
  absl::Span<const int> nodes_of_jobs() const { return nodes_of_jobs_; }

 private:
  struct Member {
    int job;
    sched::CorunMember corun;
  };
  struct Holding {
    Allocation nodes;
    int gpus = 0;
    int type = -1;  // the pool of most of them
    absl::InlinedVector<Member, 1> members;
  };
  struct NodeState {
    double speed = 1;
    bool linked = true;
  };
  int PoolOfNode(int node) const;
  /// What is lent is a pool of its own, of the cluster's one type.
  int TypeOfPool(int pool) const { return cluster_.types.empty() ? std::min(pool, 0) : pool; }
  Allocation TakeOf(int type, int gpus);
  void TakeMore(Holding& holding, int gpus);
  void GiveBack(const Allocation& nodes);
  void NoteNodes(const Allocation& nodes);
  void NoteType(int type);
  void Touch(const Holding& holding);
  void TouchNode(int node);
  double TypeSpeed(const Holding& holding, int job) const;
  double CorunSpeed(const Holding& holding, int job) const;
  double HostSpeed(const Holding& holding, int job) const;
  bool host_matters() const {
    return cluster_.cpus_per_node > 0 || cluster_.memory_gib_per_node > 0;
  }
  Member* Find(int job);
  int NewHolding();

  const ClusterSpec& cluster_;
  const sched::Profiles& profiles_;
  const sched::NodeTuner* const tuner_;
  int gpus_ = 0;
  std::vector<Nodes> pools_;      // by type; then what is lent
  std::vector<int> first_node_;   // of each pool
  std::vector<NodeState> nodes_;  // of all types
  std::vector<int> by_type_, free_by_node_, nodes_of_jobs_;
  std::vector<Holding> holdings_;
  std::vector<int> unused_;  // holdings nobody has
  std::vector<int> holding_of_;
  std::vector<int> touched_;
};

}  // namespace tide::sim

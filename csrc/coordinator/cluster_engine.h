// The cluster as a machine: inputs in, decisions out; no clock, no I/O, so it replays exactly.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "coordinator/cluster_devices.h"
#include "coordinator/cluster_gate.h"
#include "coordinator/cluster_types.h"
#include "coordinator/placement_index.h"

namespace tide::coordinator {

/// One job as the engine knows it; its view is what the policy sees of it.
struct ClusterJob {
  JobSpec spec;
  Placement placement;         // empty: nothing runs
  Placement placement_before;  // where it ran last: its memory may still be there
  int64_t revision = 0;        // grows with each change of the placement
  double first_start_s = sched::kNever;
  double resized_s = 0;
  double pace = 1;  // share of the time of shared devices that it may use
  bool policy_sizes =
      false;               // its size is the policy's; others take what is idle beyond their gang
  bool at_gate = true;     // the policy has not been told of it
  bool withdrawn = false;  // ended while it waited in the policy, which will find out at its turn
  std::string reason;      // of what was done to it last
  Placement target;        // kept for it until its command has left where it is; empty: it stays
  double target_s = 0;     // since when
  std::string target_why;
  bool away = false;   // its command is where it ran before, or has ended there
  bool stays = false;  // it did not leave a node that drains: that is not tried again by itself
  int devices() const {
    int sum = 0;
    for (const DeviceShare& share : placement) sum += share.devices;
    return sum;
  }
  /// It has these devices now. Nodes where it was earlier stay in `placement_before`, without
  /// devices: they may remember it and are told of what follows.
  void Replace(Placement now);
};

/// Not thread-safe. Copying is explicit: a policy is cloned.
class ClusterEngine {
 public:
  /// Errors: InvalidArgument for a policy or an option that does not exist.
  static absl::StatusOr<std::unique_ptr<ClusterEngine>> Make(const ClusterOptions& options);
  /// The same around a policy of the caller's, whatever the options call it.
  static absl::StatusOr<std::unique_ptr<ClusterEngine>> MakeWith(
      const ClusterOptions& options, std::unique_ptr<sched::ClusterPolicy> policy);

  /// Errors: InvalidArgument, AlreadyExists, ResourceExhausted, NotFound, each with a sentence;
  /// then nothing has changed. Decisions come out of a kDecide alone.
  absl::StatusOr<std::vector<ClusterChange>> Apply(const ClusterInput& input);
  /// Whether Apply would accept it.
  absl::Status Check(const ClusterInput& input) const;

  /// Whether a decision is due at `now_s`; and when the next one is, without further inputs.
  bool Due(double now_s) const { return dirty_ || wake_s() <= now_s; }
  double wake_s() const;
  double now_s() const { return now_s_; }

  JobIndex Find(const std::string& key) const;  // of an open job; negative: none
  const ClusterJob& job(JobIndex index) const { return jobs_[index.value()]; }
  const sched::JobView& view(JobIndex index) const { return views_[index.value()]; }
  size_t jobs() const { return jobs_.size(); }
  /// Jobs that are neither done nor refused, by index.
  const std::set<JobIndex>& open_jobs() const { return open_; }
  size_t running_jobs() const { return running_; }
  /// Who has devices of a node.
  const std::set<JobIndex>& jobs_on(NodeIndex node) const { return placed_.On(node); }
  const ClusterDevices& devices() const { return devices_; }
  const ClusterGate& gate() const { return gate_; }
  const ClusterOptions& options() const { return options_; }
  /// Working devices that no job may start on: idle ones of nodes that drain, and what is kept for
  /// jobs that are being moved.
  int withheld() const { return devices_.withheld() + moving_devices_; }
  ClusterGate::Capacity capacity() const {
    return {.devices = devices_.working() - withheld(), .now_s = now_s_};
  }
  /// Lines "SECONDS start|preempt|refuse KEY: REASON" since the last call, as the simulator writes.
  std::string TakeLog() { return std::exchange(log_, std::string()); }

  /// Whether the policy's state can be saved.
  bool has_snapshot() const { return has_snapshot_; }
  /// All that later inputs depend on, as bytes; needs has_snapshot(). Of jobs that have ended only
  /// their number is in it. What TakeLog would give is not.
  std::string Snapshot();
  /// An engine as it was at the snapshot, with these options. Under another policy, or other
  /// options of it, nothing runs: the policy is told of all open jobs at its next decision, which
  /// starts them where they ran. Errors: of Make; DataLoss for damaged bytes; FailedPrecondition
  /// for those of a version that is not known.
  static absl::StatusOr<std::unique_ptr<ClusterEngine>> Restore(const ClusterOptions& options,
                                                                absl::string_view snapshot);
  /// Whether Restore found another policy's state.
  bool retold() const { return retold_; }

  struct Forecast {
    double start_s = sched::kNever;  // kNever: not by the estimates that there are
    std::vector<JobIndex> before;    // who starts before it, in order
    bool guessed = false;            // a job without an estimate was in the way
  };
  /// Runs the policy forward from here as if nothing else came and every job took what it was
  /// estimated at. `steps` bounds the decisions.
  Forecast Preview(JobIndex job, int steps) const;
  /// The same for a job that is not there yet; Check must have accepted it.
  Forecast PreviewOf(const JobSpec& spec, int steps) const;

 private:
  ClusterEngine(const ClusterOptions& options, std::unique_ptr<sched::ClusterPolicy> policy);
  std::unique_ptr<ClusterEngine> Copy() const;
  Forecast RunForward(JobIndex wanted, int steps);
  std::vector<JobIndex> NextEnds(double& next_s, Forecast& forecast) const;

  JobIndex Submit(const JobSpec& spec);
  void Finish(const std::string& key);
  void SetNode(const ClusterInput& input);
  std::vector<ClusterChange> Decide();
  bool DecideOnce(std::vector<ClusterChange>& changes);
  std::optional<ClusterChange> TooSoon(const sched::ClusterDecision& decision);
  void Carry(const sched::ClusterDecision& decision, std::vector<ClusterChange>& changes);
  void Withdraw(const sched::JobAction& action, std::vector<ClusterChange>& changes);
  void Start(const sched::JobAction& action, std::vector<ClusterChange>& changes);
  std::string WhyNotBeside(JobIndex host, int devices) const;  // empty: it may
  void StartBeside(const sched::JobAction& action, std::vector<ClusterChange>& changes);
  void Started(JobIndex job, int devices, std::string reason, std::vector<ClusterChange>& changes);
  void PutBack(JobIndex job, std::string reason, std::vector<ClusterChange>& changes);
  void Resize(const sched::JobAction& action, std::vector<ClusterChange>& changes);
  void Pace(const sched::JobAction& action, std::vector<ClusterChange>& changes);
  void Resized(JobIndex job, std::vector<ClusterChange>& changes);
  void GiveExtraBack(JobIndex job, std::vector<ClusterChange>& changes);
  void ShrinkBy(JobIndex job, int devices);
  void GrowBy(JobIndex job, int devices);
  int ProfileOf(const JobSpec& spec, int group);
  /// Whether others are on its devices as well.
  bool Shares(JobIndex job) const;
  int NewHolding(JobIndex job) const;
  void Enter(JobIndex job, int holding);
  /// Whether nobody is on its devices any more.
  bool Leave(JobIndex job);
  void UpdateRates(int holding);
  void Stop(JobIndex job);
  PlacedJob Placed(JobIndex job) const;
  void Close(JobIndex job, sched::JobState state);
  void Evict(JobIndex job, std::string reason);
  void MakeRoom(int devices, std::vector<ClusterChange>& changes);
  void ShrinkOne(JobIndex job, NodeIndex node);
  void SayShrunk(const std::set<JobIndex>& shrunk, std::vector<ClusterChange>& changes);
  void FitCapacity();

  // cluster_spread.cc
  int DevicesANode() const;
  bool IsSpread(JobIndex job, int devices_a_node) const;
  double SpreadSpeed(JobIndex job) const;
  sched::ClusterView PolicyView();
  std::set<JobIndex> MoveAsDecided(const sched::ClusterDecision& decision,
                                   std::vector<ClusterChange>& changes);
  void ConsolidateOne(const sched::JobAction& action, int each,
                      std::vector<ClusterChange>& changes);

  // cluster_moves.cc
  absl::Status UnknownNode(const std::string& name) const;
  absl::Status CheckMove(const ClusterInput& input) const;
  absl::Status CheckDrain(const ClusterInput& input) const;
  bool MayMoveTo(JobIndex job, NodeIndex to, NodeIndex node) const;
  int RoomFor(JobIndex job, NodeIndex to) const;
  void Move(const ClusterInput& input);
  void Drain(const ClusterInput& input);
  void BeginMove(JobIndex job, NodeIndex to, std::string why, std::vector<ClusterChange>& changes);
  void DropTarget(JobIndex job);
  void Stay(JobIndex job, const std::string& why);
  void Left(JobIndex job);
  void GoBack(JobIndex job, const std::string& why);
  void Settle(JobIndex job, Placement placement, const std::string& why);
  void EmptyNodes(std::vector<ClusterChange>& changes);
  void EndLateMoves();

  void Grow(std::vector<ClusterChange>& changes);
  void LogAction(const sched::JobAction& action);
  sched::ClusterInput PolicyInput(const sched::ClusterView& cluster);
  void VisitFields(FieldArchive& archive);
  std::vector<JobIndex> VisitJobs(FieldArchive& archive);
  void VisitPolicy(FieldArchive& archive, const std::vector<JobIndex>& kept);
  std::vector<JobIndex> Kept() const;
  absl::Status Rebuild(const std::vector<JobIndex>& kept);
  void Retell();

  ClusterOptions options_;  // constant after construction
  std::unique_ptr<sched::ClusterPolicy> policy_;
  ClusterGate gate_;
  ClusterDevices devices_;
  std::vector<ClusterJob> jobs_;  // parallel: a policy looks at views by index
  std::vector<sched::JobView> views_;
  absl::flat_hash_map<std::string, JobIndex> by_key_;  // open ones
  absl::flat_hash_map<std::string, int> groups_;
  std::set<JobIndex> open_;
  PlacementIndex placed_;                                     // of running jobs
  std::vector<sched::JobEvent> ends_, evictions_, arrivals_;  // since the policy decided last
  std::vector<ClusterChange> untold_;  // changes between decisions, told with the next one
  std::string log_;
  double now_s_ = 0, wake_s_ = sched::kNever;
  double started_s_ = -sched::kNever;  // when a job was started last
  size_t running_ = 0;
  int64_t running_held_ = 0;  // devices that the policy has handed out; those of several jobs once
  sched::Profiles profiles_;
  absl::flat_hash_map<int, int> profile_of_group_;  // of those of which something is known
  absl::flat_hash_map<int, std::vector<JobIndex>> holdings_;  // who is on the same devices
  bool policy_resizes_ = false;                               // constant after construction
  std::set<std::pair<double, JobIndex>> moving_;              // who has a target, since when
  int moving_devices_ = 0;                                    // of all targets
  std::vector<int> nodes_of_jobs_, free_by_node_;  // what a policy looks at while it decides
  bool dirty_ = false;
  bool has_snapshot_ = false;  // constant after construction, as is retold_
  bool retold_ = false;
};

}  // namespace tide::coordinator

// Values of the cluster: what a job asks for, what is told to the engine, what it changes.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/ids.h"
#include "sched/cluster_policy.h"
#include "wire/messages.h"

namespace tide::coordinator {

using sched::JobIndex;
using NodeIndex = Id<struct NodeTag>;

inline constexpr size_t kClusterJobsMax = 100'000;  // open at one time
inline constexpr size_t kClusterNodesMax = 16'384;
inline constexpr int64_t kNodeDevicesMax = 4096;
/// How long devices are kept for a job that is to leave where it is. `tide submit` gives up sooner.
inline constexpr double kMoveLongestS = 900;

/// What a job asks the cluster for. Times are seconds.
struct JobSpec {
  std::string key;  // unique among open jobs
  std::string user, group;
  int devices = 1;        // a gang: all of them or none
  int devices_max = 0;    // elastic: up to so many while others leave them idle; 0: fixed
  double estimate_s = 0;  // 0: unknown
  double deadline_s = sched::kNever;  // on the cluster's clock
  sched::JobTier tier = sched::JobTier::kStandard;
  bool movable = false;  // who runs it can carry it to other nodes by a checkpoint; of a fixed gang
  /// How it behaves, for the policies that share devices or choose sizes; null: as an earlier job
  /// of its user, group and devices, or unknown. The engine takes it over and keeps none here.
  std::shared_ptr<const sched::JobProfile> profile;
};

struct Reservation {
  std::string name;
  std::string user;  // whose jobs may use it
  int devices = 0;
  double from_s = 0, to_s = 0;
};

struct UserRule {
  int quota_devices = 0;  // admitted at one time; 0: no bound
  double weight = 1;
};

struct ClusterOptions {
  std::string policy = "fifo";
  sched::ClusterPolicyOptions policy_options;
  double min_run_s = 0;  // the filter: a job is not preempted sooner; 0: off
  double spread_speed =
      1;  // of a gang on more nodes than it needs, over that on as many as it needs
  bool fair_share = false;  // admits by least decayed use over weight
  double half_life_s = 7 * 86400;
  std::map<std::string, UserRule> users;
};

/// Devices of one job on one node.
struct DeviceShare {
  NodeIndex node;
  int devices = 0;
  bool operator==(const DeviceShare&) const = default;
};
using Placement = std::vector<DeviceShare>;

/// All that the engine is ever told, in order; the same rows give the same decisions, so the rows
/// are what is journalled.
enum class ClusterInputKind { kSubmit, kFinish, kNode, kReserve, kDecide, kMove, kDrain };
struct ClusterInput {
  ClusterInputKind kind = ClusterInputKind::kDecide;
  double now_s = 0;
  JobSpec spec;             // kSubmit; kFinish, kMove: its key
  std::string node;         // kNode, kDrain; kMove: to where, empty: wherever there is room
  int devices = 0;          // kNode
  double memory_gib = 0;    // kNode: of each device; 0: unknown
  bool works = true;        // kNode
  Reservation reservation;  // kReserve; no devices: it is lifted
  wire::MoveStep step = wire::MoveStep::kAsk;  // kMove
  int64_t revision = 0;                        // kMove, of a start that failed: which
  std::string reason;                          // kMove
  bool drains = true;                          // kDrain; false: the node takes jobs again
};

/// {speed: [by number of devices], stage_s: [4], busy, memory_gib, scratch_gib}, as
/// sched::JobProfile has them; what is absent is unknown. Errors: InvalidArgument with the key for
/// what cannot be.
absl::StatusOr<sched::JobProfile> ProfileFromValue(const wire::Value& value);
wire::Value ProfileToValue(const sched::JobProfile& profile);

wire::Value::Map ClusterInputToValue(const ClusterInput& input);
absl::StatusOr<ClusterInput> ClusterInputFromValue(const wire::Value& value);

/// The engine's state after so many inputs.
struct ClusterSnapshot {
  int64_t seq = 0;
  std::string bytes;
};

/// What a journal has of a cluster: snapshots, the newest first, and all inputs after the oldest of
/// them, by number; without a snapshot all that there ever were.
struct ClusterHistory {
  std::vector<ClusterSnapshot> snapshots;
  std::vector<std::pair<int64_t, std::string>> inputs;
  bool upgraded = false;  // the journal was of a layout that had no snapshots
};

/// What a decision changed. kPutOff: an action of the policy that was not carried out. kMoving:
/// devices elsewhere are kept for it until its command has left; then kMoved, or kStays.
enum class ChangeKind {
  kStart,
  kPreempt,
  kEvict,
  kRefuse,
  kResize,
  kPutOff,
  kMoving,
  kMoved,
  kStays,
  kPace
};
struct ClusterChange {
  JobIndex job;
  ChangeKind kind = ChangeKind::kStart;
  std::string reason;
};

}  // namespace tide::coordinator

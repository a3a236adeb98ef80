// The messages of docs/reference/protocol.md as plain structs; bodies travel as MessagePack maps.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "wire/frame.h"
#include "wire/value.h"

namespace tide::wire {

enum class Role { kJob, kCli, kNode };
enum class Priority { kOpportunistic, kNormal, kGuaranteed };  // numbers as in the device table
enum class GrantStatus { kApplied, kDeferred, kStale, kConflict };
enum class OrderKind { kSuspend, kResume, kStop, kLimitDevice, kResize };
enum class OrderStatus { kDone, kFailed, kRolledBack };
enum class Tier { kOpportunistic, kStandard, kGuaranteed };  // numbers as sched::JobTier
enum class AllocationState { kRun, kHold, kEnd };            // what a node's part of a job may do
enum class MoveStep { kAsk, kLeft, kStays, kFailed };        // of a job to other nodes

/// The word on the wire: "guaranteed", "applied", "rolled_back", ...
absl::string_view Word(Role value);
absl::string_view Word(Priority value);
absl::string_view Word(GrantStatus value);
absl::string_view Word(OrderKind value);
absl::string_view Word(OrderStatus value);
absl::string_view Word(Tier value);
absl::string_view Word(AllocationState value);
absl::string_view Word(MoveStep value);
/// Inverse of Word; InvalidArgument names the words that exist.
absl::StatusOr<Priority> ParsePriority(absl::string_view word);

struct Hello {
  int64_t version = kProtocolVersion;
  Role role = Role::kJob;
  int64_t pid = 0;
};
struct Welcome {
  int64_t version = kProtocolVersion;
  int64_t job_id = 0;
  std::string name;
  int64_t generation = 0;
  int64_t daemon_pid = 0;
};
struct Register {
  std::string name;
  int64_t pid = 0;
  int64_t start_time = 0;
  Priority priority = Priority::kNormal;
  int64_t min_bytes = 0;  // guaranteed
  int64_t max_bytes = 0;  // limit; 0: none
  std::string script;
  int64_t slot = -1;
  int64_t job_id = 0;  // re-attach
  int64_t token = 0;   // drawn once a session
  int64_t revision = 0;
  bool paused = false;
  double started = 0;
};
/// What a job has on one device beside the CPU.
struct DeviceReport {
  int64_t index = 0;
  std::string name;
  int64_t limit = 0;  // 0: none
  int64_t device = 0;
  int64_t host_mapped = 0;
  int64_t away = 0;  // out of the device and of its addresses: while suspended
  // Of the next suspension of this device and the return from it; 0: nothing to move, or a job of
  // an older version.
  double predicted_suspend_ms = 0, predicted_resume_ms = 0;
};
struct Report {
  int64_t slot = -1;
  int64_t iterations = 0;
  double step_ms = 0;
  int64_t resident = 0, demoted = 0, persistent = 0, scratch_peak = 0, outside = 0;
  std::string phase;
  std::optional<bool> paused;  // the session fills it in
  // What the job holds to; a revision that the daemon has not given is one that the job took
  // itself.
  std::optional<int64_t> revision;
  int64_t max_bytes = 0, guaranteed_bytes = 0;
  std::string key;  // over a node's link: of which job of the cluster
  std::vector<DeviceReport> devices;
  // Of the elastic job that it is a process of: how many there are, and the bounds; 0: none.
  int64_t processes = 0, processes_low = 0, processes_high = 0;
  // The same of the whole job, its devices included; 0: not known.
  double predicted_suspend_ms = 0, predicted_resume_ms = 0;
};
struct Event {
  int64_t seq = 0;
  double time = 0;  // Unix seconds
  std::string kind;
  std::string job;
  std::string text;
  Value::Map data;
};
struct GrantAck {
  int64_t revision = 0;
  GrantStatus status = GrantStatus::kApplied;
  int64_t overage_bytes = 0, moved_bytes = 0;
  double took_ms = 0;
  Value::Map parts;
  std::string text;
  // What the job holds to after this acknowledgement; the session fills them in.
  int64_t max_bytes = 0, guaranteed_bytes = 0;
};
struct OrderAck {
  int64_t order_id = 0;
  OrderStatus status = OrderStatus::kDone;
  double took_ms = 0;
  std::string text;
};
struct NeedMemory {
  int64_t bytes = 0;
  int64_t deadline_ms = 0;
};
struct Bye {
  int64_t exit_code = 0;
};

inline constexpr int64_t kKeepLane = -2;
struct Grant {
  int64_t revision = 0;
  int64_t max_bytes = 0;  // 0: no limit
  int64_t guaranteed_bytes = 0;
  double weight = 1;
  int64_t lane = kKeepLane;
  std::string policy;  // empty: keep
  Priority priority = Priority::kNormal;
};
struct Order {
  int64_t order_id = 0;
  OrderKind kind = OrderKind::kSuspend;
  int64_t deadline_ms = 0;
  // Of kLimitDevice: the device by the job's own numbers, and its limit; 0: none.
  int64_t device = 0, bytes = 0;
  int64_t processes = 0;  // of kResize: of the whole elastic job
  bool deep = false;      // of kSuspend: the job's contexts leave its devices too
};
struct Query {
  std::string what;
  std::string job;
  int64_t since = -1;
  bool follow = false;
  int64_t count = 0;
};
struct Command {
  std::string what;
  std::string job;
  std::optional<int64_t> bytes;
  int64_t lane = 0;
  std::string policy;
  std::string priority;
  std::optional<double> weight;
  int64_t timeout_ms = 10'000;
  std::string by;
  int64_t device = 0;  // of limit_device
  bool deep = false;   // of pause
};
struct AnswerError {
  std::string code;
  std::string message;
  std::string advice;
};
struct Answer {
  bool ok = true;
  std::optional<AnswerError> error;
  Value data = Value(Value::Map());
};

/// First frame of a TCP connection: the nonce that the other side must prove the secret with.
struct Challenge {
  int64_t version = kProtocolVersion;
  std::string nonce;
};
struct Proof {
  std::string nonce;  // of who proves first
  std::string mac;
};
/// A machine offers its devices; `held` lists what it runs: [{key, revision, state}].
struct Join {
  std::string node;
  int64_t devices = 0;
  int64_t incarnation = 0;
  Value held;
  double memory_gib = 0;  // of each device; 0: unknown
};
/// From a node: it lives. To it: its grants hold for so long.
struct Lease {
  int64_t seq = 0;
  int64_t lease_ms = 0;
};
/// Asks for devices of the cluster; the same key asks again for the same job.
struct Submit {
  std::string key;
  std::string user;
  std::string group;
  int64_t devices = 1;
  double estimate_s = 0;  // 0: unknown
  double deadline_s = 0;  // after submission; 0: none
  Tier tier = Tier::kStandard;
  bool preview = false;          // only say when it would start
  int64_t devices_max = 0;       // elastic: takes up to so many when they are idle; 0: a fixed gang
  bool movable = false;          // who runs it can carry it to other nodes by a checkpoint
  std::optional<Value> profile;  // how it behaves: a map, as docs/reference/cluster.md says
};
struct Finish {
  std::string key;
  int64_t exit_code = 0;
};
/// What a job has from now on. `nodes` maps names of nodes to devices; `devices` are those here.
struct Allocation {
  std::string key;
  int64_t revision = 0;
  AllocationState state = AllocationState::kHold;
  int64_t devices = 0;
  int64_t workers = 0;
  Value::Map nodes;
  std::string reason;
  // Jobs that share devices have equal numbers, and count once; 0: nobody is on its devices.
  int64_t holding = 0;
  double pace = 1;  // share of the time of shared devices that it may use
};
struct AllocationAck {
  std::string key;
  int64_t revision = 0;
};
/// Of a coordinator with a virtual clock: it is this time now; decide if anything is due.
struct Advance {
  double now_s = 0;
  bool decide = true;
};
/// Keeps devices for one user's jobs; none: lifts the reservation. Seconds count from now.
struct Reserve {
  std::string name;
  std::string user;
  int64_t devices = 0;
  double from_s = 0;
  double for_s = 0;
};
/// Carries a movable job to other nodes: asks for it, or says what became of it.
struct Move {
  std::string key;
  MoveStep step = MoveStep::kAsk;
  std::string to;        // kAsk: a node; empty: wherever there is room
  int64_t revision = 0;  // kFailed: of the placement at which it could not be started
  std::string reason;
};
/// No job is placed on a node any more, and those that can be moved leave it.
struct Drain {
  std::string node;
  bool undo = false;
};

using Message =
    std::variant<Hello, Welcome, Register, Report, Event, GrantAck, OrderAck, NeedMemory, Bye,
                 Grant, Order, Query, Command, Answer, Challenge, Proof, Join, Lease, Submit,
                 Finish, Allocation, AllocationAck, Advance, Reserve, Move, Drain>;

/// The frame kind of a message.
FrameKind KindOf(const Message& message);
/// Body checked field by field. Errors: InvalidArgument "KIND.FIELD: ..." for a body that is no
/// map, a missing required field, a wrong type, an unknown word, a number out of range.
absl::StatusOr<Message> DecodeMessage(const Frame& frame);
/// The frame of a message. Errors: a body over the bound of its kind.
absl::StatusOr<Frame> EncodeMessage(Message message, uint64_t request_id = 0,
                                    uint64_t generation = 0);
/// The map of an event, as it also stands in the answers to queries.
/// As in a Report; of a job record too.
Value::Array DeviceRecords(const std::vector<DeviceReport>& devices);
Value::Map EventRecord(const Event& event);

}  // namespace tide::wire

// What the daemon knows, as one value: jobs, peers, what is asked and not yet answered, recent
// events.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/ids.h"
#include "coordinator/cluster.h"
#include "coordinator/history.h"
#include "coordinator/uplink.h"
#include "wire/messages.h"

namespace tide::coordinator {

inline constexpr size_t kEventsInMemory = 4096;
inline constexpr size_t kEndedJobsKept = 64;
inline constexpr size_t kLiveJobsMax = 10'000;

/// The moment of a decision: wall time for people, monotonic for deadlines.
struct Moment {
  absl::Time wall;
  int64_t mono_ns = 0;
  double unix_s() const { return absl::ToUnixMicros(wall) / 1e6; }
};

/// What a grant carries.
struct Settings {
  int64_t limit_bytes = 0;  // 0: none
  int64_t guaranteed_bytes = 0;
  wire::Priority priority = wire::Priority::kNormal;
  double weight = 1;
  bool operator==(const Settings&) const = default;
};

struct Exit {
  std::optional<int64_t> code;
  std::optional<int64_t> signal;
  double time = 0;  // Unix seconds
};

struct Job {
  // journalled
  JobId id;
  std::string name;
  std::string script;
  int64_t pid = 0;
  int64_t start_time = 0;
  int64_t token = 0;
  double started = 0;  // Unix seconds
  Settings wanted;     // of `revision`
  Settings applied;    // what the job last said it holds to
  int64_t revision = 0;
  int64_t settled_revision = 0;  // newest that the job applied or refused
  bool paused = false;
  double paused_since = 0;
  std::string paused_by;
  std::optional<Exit> exit;

  // of this run of the daemon
  PeerId peer;
  int slot = -1;
  std::optional<wire::Report> report;
  std::optional<int64_t> said_bye;                      // exit code
  std::vector<std::pair<int64_t, Settings>> under_way;  // grants sent and not settled
  int64_t grant_sent_ns = 0;
  int64_t reported_up_ns = 0;
  bool deferred = false;       // the newest grant waits for the job's next boundary
  double suspend_took_ms = 0;  // of the last suspension; 0: never measured
  int64_t rate_iterations = -1, rate_at_ns = 0;
  double steps_per_s = 0;

  bool live() const { return !exit.has_value(); }
  bool attached() const { return peer.value() >= 0; }
};

struct Peer {
  int64_t pid = 0;      // of its credentials; 0 when not visible from here
  bool remote = false;  // over TCP: it speaks for the cluster, not for this machine
  std::string node;     // the one it has joined as
  bool said_hello = false;
  wire::Role role = wire::Role::kCli;
  JobId job;
};

/// A client that is told of events as they happen.
struct Follow {
  uint64_t request_id = 0;
  std::string job;  // empty: all
};

/// A client that waits for an answer.
struct Waiter {
  PeerId peer;
  uint64_t request_id = 0;
  int64_t deadline_ns = 0;
};

/// A change of settings that a client waits for.
struct PendingChange {
  Waiter waiter;
  JobId job;
  int64_t revision = 0;
  std::string what;  // "limit", ...
  Settings previous;
  std::optional<wire::GrantAck> last_ack;
};

struct PendingOrder {
  int64_t id = 0;
  JobId job;
  wire::OrderKind kind = wire::OrderKind::kSuspend;
  int64_t timeout_ms = 0;
  int64_t expires_ns = 0;  // when the daemon itself rolls back
  int64_t sent_ns = 0;
  std::string by;
  int64_t device = 0, bytes = 0;  // of a limit
  int64_t processes = 0;          // of a resize
  bool deep = false;              // of a pause
  bool rollback = false;          // the opposite of an order that expired
  std::vector<Waiter> waiters;
};

struct State {
  int64_t generation = 0;
  int64_t daemon_pid = 0;
  absl::Time started;
  int64_t next_job_id = 1;
  int64_t next_order_id = 1;
  int64_t next_seq = 1;
  std::map<JobId, Job> jobs;
  std::map<PeerId, Peer> peers;
  std::map<PeerId, Follow> followers;
  std::vector<PendingChange> changes;
  std::vector<PendingOrder> orders;
  std::deque<wire::Event> events;
  History history;
  ClusterState cluster;
  UplinkState uplink;

  /// The live job of that name, else the one of that name that ended last; nullptr when there is
  /// none.
  Job* FindJob(absl::string_view name);
  const Job* FindJob(absl::string_view name) const;
  Job* FindJob(JobId id);
  /// Names of live jobs, and of ended ones when there is no live one, comma-separated, at most 20.
  std::string KnownNames() const;
  size_t live_jobs() const;
};

/// `wish` cleaned (printable, no spaces, at most 48 bytes, not empty) and, where a live job has it,
/// numbered.
std::string UniqueName(const State& state, absl::string_view wish);

}  // namespace tide::coordinator

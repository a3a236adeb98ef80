// The coordinator of a cluster inside the daemon: messages to inputs, changes to allocations.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/cluster_engine.h"
#include "wire/messages.h"

namespace tide::coordinator {

struct Context;
using PeerId = Id<struct PeerTag, int64_t>;

/// How a daemon serves a cluster.
struct ClusterSettings {
  ClusterOptions options;
  int64_t lease_ms = 15'000;   // a node that is silent for longer is lost
  bool virtual_clock = false;  // time is what Advance says: for replays
  // Inputs after which the journal gets a snapshot, and forgets those of the one before the last;
  // 0: never.
  int64_t snapshot_inputs = 10'000;
};

/// One machine of the cluster, as far as the connection with it goes.
struct NodeLink {
  PeerId peer;  // negative: not connected
  int64_t incarnation = 0;
  int64_t lease_until_ns = 0;
  std::vector<std::string> held;  // what it said it runs when it joined
  struct Sent {
    int64_t revision = 0;
    int64_t sent_ns = 0;
  };
  std::map<std::string, Sent> unanswered;  // by key of the job
};

/// What a job last said of itself.
struct JobFigures {
  int64_t iterations = 0, resident = 0, demoted = 0, reports = 0;
  double step_ms = 0;
};

struct ClusterState {
  ClusterSettings settings;
  std::unique_ptr<ClusterEngine> engine;  // nullptr: this daemon serves no cluster
  std::map<std::string, NodeLink> nodes;
  std::set<std::string> resync;     // nodes to be told all that concerns them after the decision
  std::vector<JobFigures> figures;  // by JobIndex
  int64_t next_input = 1;
  int64_t snapshot_seq = 0;      // the inputs until here are in a snapshot
  bool snapshot_wanted = false;  // at once, however few came since
  int64_t reports = 0, decisions = 0;
  double virtual_s = 0;  // what Advance said last
  double base_s = 0;     // the cluster's clock stood there at base_ns
  int64_t base_ns = 0;

  /// Seconds on the cluster's clock; never goes back, whatever the wall clock does.
  double NowAt(int64_t mono_ns) const;
};

/// Brings a journal back: the newest snapshot that can be read, every input after it again, nothing
/// sent. Errors: of the settings; DataLoss when inputs are missing.
absl::Status RestoreCluster(Context& context, const ClusterSettings& settings,
                            const ClusterHistory& history);
/// The state for the journal, when enough has been told since the last time.
std::optional<ClusterSnapshot> TakeClusterSnapshot(ClusterState& cluster);

void OnJoin(Context& context, PeerId id, uint64_t request_id, const wire::Join& join);
void OnLease(Context& context, PeerId id, uint64_t request_id, const wire::Lease& lease);
void OnSubmit(Context& context, PeerId id, uint64_t request_id, const wire::Submit& submit);
void OnFinish(Context& context, PeerId id, uint64_t request_id, const wire::Finish& finish);
void OnAdvance(Context& context, PeerId id, uint64_t request_id, const wire::Advance& advance);
void OnAllocationAck(Context& context, PeerId id, const wire::AllocationAck& ack);
/// A report of a job of the cluster over its node's link.
void OnClusterReport(Context& context, const wire::Report& report);
void OnReserve(Context& context, PeerId id, uint64_t request_id, const wire::Reserve& reserve);
void OnMove(Context& context, PeerId id, uint64_t request_id, const wire::Move& move);
void OnDrain(Context& context, PeerId id, uint64_t request_id, const wire::Drain& drain);
/// The answers to `cluster`, `placement`, `preview` and, for what no job here is called, `explain`;
/// false when the query is another one or the cluster does not know either.
bool OnClusterQuery(Context& context, PeerId id, uint64_t request_id, const wire::Query& query);
void OnNodeClosed(Context& context, PeerId id, const std::string& node);

/// Decides when something happened; to be called once for all that came together.
void DecideCluster(Context& context);
/// Leases and repeats.
void TickCluster(Context& context);

// cluster_trace.cc
/// {csv, jobs, open, next}: what the jobs from number `since` on that have ended took, as a trace
/// of at most about 1 MiB; `next` goes on, -1: there are no more. Durations are the service that
/// they had, in seconds of their gang. Jobs that ended before the daemon's newest snapshot at its
/// start are not in it.
wire::Value::Map ClusterTrace(const ClusterEngine& engine, int64_t since);

// cluster_records.cc
wire::Value::Map ClusterRecord(const ClusterState& cluster);
/// Why a job of the cluster is as it is; NotFound when none is open under that key.
absl::StatusOr<wire::Value::Map> ExplainClusterJob(const ClusterState& cluster,
                                                   const std::string& key);
/// Where a job is and where it is to go; NotFound when none is open under that key.
absl::StatusOr<wire::Value::Map> ClusterPlacement(const ClusterState& cluster,
                                                  const std::string& key);
/// When a job would start: of an open key, or of `spec` as if it were submitted now.
absl::StatusOr<wire::Value::Map> PreviewClusterJob(const ClusterState& cluster,
                                                   const std::string& key, const JobSpec* spec);
/// Errors: InvalidArgument for a profile that cannot be.
absl::StatusOr<JobSpec> SpecOf(const wire::Submit& submit, double now_s);

}  // namespace tide::coordinator

// The daemon's body: socket, peers, pidfds, timers and signals around coordinator::Core, on one
// thread.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "coordinator/cluster.h"
#include "coordinator/node_agent.h"
#include "coordinator/node_link.h"
#include "coordinator/state.h"
#include "coordinator/tcp_gate.h"

namespace tide::coordinator {

struct ServerOptions {
  std::string runtime_dir;
  absl::Duration idle_exit = absl::Seconds(60);  // without jobs and clients; zero: never
  size_t peers_max = kLiveJobsMax + 1024;        // each job has a connection, clients some more
  TcpGateOptions gate;                           // with an address: this daemon is a coordinator
  ClusterSettings cluster;                       // of a coordinator
  NodeLinkOptions link;             // with an address: this daemon is a node of a cluster
  NodeOptions node;                 // of a node
  int64_t journal_events = 10'000;  // kept, the newest
  std::string decision_log;
  std::string http_listen, http_token_file;
};

/// Serves `runtime_dir`/tided.sock until SIGTERM, SIGINT, a shutdown command, or idleness. The
/// caller holds the lock that makes this the only daemon of the folder. `ready` is called once
/// clients can connect. Errors: of the journal or the socket; jobs train on without a daemon.
absl::Status Serve(const ServerOptions& options, Clock& clock, const std::function<void()>& ready);

}  // namespace tide::coordinator

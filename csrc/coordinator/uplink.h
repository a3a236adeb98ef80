// The machine's daemon as a node of a cluster: its agent, its jobs, and clients' questions passed
// on.
#pragma once

#include <map>
#include <optional>

#include "base/ids.h"
#include "coordinator/node_agent.h"

namespace tide::coordinator {

struct Context;
struct Job;
using PeerId = Id<struct PeerTag, int64_t>;

/// The part of the daemon's state that a joined one has.
struct UplinkState {
  std::optional<NodeAgent> agent;  // none: this daemon has not been told to join
  struct Passed {
    PeerId peer;
    uint64_t request_id = 0;
    int64_t deadline_ns = 0;
  };
  std::map<uint64_t, Passed> passed;  // by the number it went up with
  /// How an elastic job follows the size of its grant.
  struct Following {
    int64_t revision = -1;  // of the grant whose size it has had
    int64_t again_ns = 0;   // not before, after a try that came to nothing
    bool paced = false;     // its jobs have a weight by the cluster
  };
  std::map<std::string, Following> sizes;  // by key
  uint64_t next_request = 1;
};

void OnUplinkOpen(Context& context);
void OnUplinkFrame(Context& context, uint64_t request_id, const wire::Message& message);
void OnUplinkLost(Context& context, const std::string& why);
void TickUplink(Context& context);
/// Whether the link is dead though its socket is not.
bool UplinkSilent(const UplinkState& uplink, int64_t now_ns);
/// A client's message for the coordinator; false when this daemon has not joined one.
bool PassUp(Context& context, PeerId peer, uint64_t request_id, const wire::Message& message);
/// A report of a job here whose name the cluster knows.
void ReportUp(Context& context, Job& job, const wire::Report& report);

}  // namespace tide::coordinator

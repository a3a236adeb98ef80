// A machine's side of the cluster: what it was granted, what it therefore lets run, what it
// answers.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "wire/messages.h"

namespace tide::coordinator {

struct NodeOptions {
  std::string node;
  int64_t devices = 1;
  double memory_gib = 0;    // of each device; 0: unknown
  int64_t incarnation = 0;  // of this start of the daemon
};

/// Keeps authority over its own devices: whatever arrives in whatever order, it never lets more run
/// than it has. When the link is down it goes on with its last grants. A value; no I/O.
class NodeAgent {
 public:
  explicit NodeAgent(NodeOptions options) : options_(std::move(options)) {}

  /// The link has been proven: what to say first.
  std::vector<wire::Message> Connected(int64_t now_ns);
  void Lost() { connected_ = false; }
  /// A message from the coordinator; what to answer.
  std::vector<wire::Message> OnMessage(const wire::Message& message, int64_t now_ns);
  /// What is due to be said.
  std::vector<wire::Message> Tick(int64_t now_ns);
  /// Nothing came for a whole lease: the link is dead, whatever the socket says.
  bool Silent(int64_t now_ns) const;

  /// What a job here has to do next.
  struct Step {
    std::string key;
    wire::AllocationState state = wire::AllocationState::kHold;
    int64_t workers = 0;
    std::string reason;
    int64_t devices = 0, revision = 0;
    double pace = 1;
  };
  /// Steps that may be taken now; the caller says Took when one was carried out. Holds and ends
  /// come first, and a run waits until what it needs has been let go.
  std::vector<Step> NextSteps() const;
  void Took(const std::string& key, wire::AllocationState state);
  /// What runs with its newest grant; not who waits for devices that others give back.
  std::vector<Step> Running() const;

  bool Knows(const std::string& key) const { return parts_.contains(key); }
  /// Whether a process of this job may run; true for what the cluster knows nothing of.
  bool MayRun(const std::string& key) const;
  /// Devices of a job that runs, as far as this machine has carried it out; 0 for others.
  int64_t running_devices(const std::string& key) const;
  /// Devices that are in use; those that jobs share count once.
  int64_t running_devices() const;
  bool connected() const { return connected_; }
  const NodeOptions& options() const { return options_; }

 private:
  struct Part {
    wire::Allocation granted;
    bool runs = false;                 // as far as this machine has carried it out
    int64_t devices = 0, workers = 0;  // while it runs
    int64_t holding = 0;
  };

  static Step StepOf(const std::string& key, const Part& part);

  /// Devices of `part` beyond those that others of its holding are on.
  int64_t Beyond(const std::string& key, int64_t holding, int64_t devices) const;

  NodeOptions options_;
  std::map<std::string, Part> parts_;
  int64_t lease_ns_ = 0, heard_ns_ = 0, said_ns_ = 0, seq_ = 0;
  bool connected_ = false;
};

}  // namespace tide::coordinator

// The shell around the brain: decide, journal, then act; the same for the daemon and for
// simulation.
#pragma once

#include <optional>
#include <vector>

#include "base/clock.h"
#include "coordinator/decide.h"
#include "coordinator/journal.h"
#include "coordinator/status_api.h"

namespace tide::coordinator {

/// Where effects go. Called only from Core::Flush.
class Edges {
 public:
  virtual ~Edges() = default;
  virtual void SendTo(PeerId peer, const wire::Frame& frame) = 0;
  /// After what was sent before has been given to the socket.
  virtual void ClosePeer(PeerId peer, const std::string& reason) = 0;
  virtual void Watch(const WatchProcess& process) = 0;
  virtual void Unwatch(JobId job) = 0;
  virtual void WriteLanePolicy(int lane, sched::TurnPolicyId policy) = 0;
  virtual void ReapDeadSlots() = 0;
  virtual void StopDaemon(const std::string& reason) = 0;
  /// Lines of the cluster's decision log; on the disk before the call returns. Returns its size
  /// then.
  virtual int64_t AppendDecisionLog(const std::string& /*lines*/) { return -1; }
  /// At the start: what is beyond `bytes` was never journalled.
  virtual void CutDecisionLog(int64_t /*bytes*/) {}
  virtual void SendUp(const wire::Frame& /*frame*/) {}
  /// What the daemon before has seen of its jobs, as History packs it; empty when it left nothing.
  virtual std::string ReadHistory() { return ""; }
  /// Whether the process of a journalled job still runs.
  virtual bool Alive(int64_t pid, int64_t start_time) = 0;
};

/// Not thread-safe: one thread runs everything. What it borrows must outlive it.
class Core {
 public:
  struct Parts {
    Journal& journal;
    Edges& edges;
    DeviceSource& device;
    Clock& clock;
  };
  /// `cluster` makes this daemon a coordinator, `node` one of a cluster's machines.
  explicit Core(Parts parts, std::optional<ClusterSettings> cluster = std::nullopt,
                std::optional<NodeOptions> node = std::nullopt)
      : parts_(parts), cluster_(std::move(cluster)) {
    if (node) state_.uplink.agent.emplace(*std::move(node));
  }

  /// Replays the journal and begins a new generation. Errors: of the journal.
  absl::Status Start(int64_t daemon_pid);

  void Connected(PeerId peer, int64_t pid, bool remote = false);
  void Received(PeerId peer, const wire::Frame& frame);
  void Broken(PeerId peer, const absl::Status& why);
  void Closed(PeerId peer);
  void ProcessEnded(JobId job, ExitStatus status);
  void RunTick();
  void UplinkOpen();
  void UplinkFrame(const wire::Frame& frame);
  void UplinkLost(const std::string& why);

  /// Journals what was decided since the last call, then acts. Errors: of the journal; then nothing
  /// was sent.
  absl::Status Flush();
  /// What an HTTP client is told; nothing for a path that does not exist.
  std::optional<HttpBody> Http(const HttpQuestion& question);
  bool has_effects() const { return !effects_.empty() || ClusterIsDue(); }
  const State& state() const { return state_; }

 private:
  Context MakeContext();
  void Act(Effect& effect);
  bool ClusterIsDue() const;

  const Parts parts_;
  const std::optional<ClusterSettings> cluster_;
  State state_;
  Effects effects_;
};

}  // namespace tide::coordinator

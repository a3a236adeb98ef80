// The shell around the brain: decide, journal, then act; the same for the daemon and for
// simulation.
#pragma once

#include <vector>

#include "base/clock.h"
#include "coordinator/decide.h"
#include "coordinator/journal.h"

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
  explicit Core(Parts parts) : parts_(parts) {}

  /// Replays the journal and begins a new generation. Errors: of the journal.
  absl::Status Start(int64_t daemon_pid);

  void Connected(PeerId peer, int64_t pid);
  void Received(PeerId peer, const wire::Frame& frame);
  void Broken(PeerId peer, const absl::Status& why);
  void Closed(PeerId peer);
  void ProcessEnded(JobId job, ExitStatus status);
  void RunTick();

  /// Journals what was decided since the last call, then acts. Errors: of the journal; then nothing
  /// was sent.
  absl::Status Flush();
  bool has_effects() const { return !effects_.empty(); }
  const State& state() const { return state_; }

 private:
  Context MakeContext();
  void Act(Effect& effect);

  const Parts parts_;
  State state_;
  Effects effects_;
};

}  // namespace tide::coordinator

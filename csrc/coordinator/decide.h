// The daemon's brain: pure functions from (state, what happened, now) to a changed state and
// effects.
//
// Nothing here does I/O. The caller executes the effects in order after it has journalled those
// that are to be kept (coordinator/core.h).
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "coordinator/device_view.h"
#include "coordinator/state.h"

namespace tide::coordinator {

// To be journalled.
struct SaveJob {
  Job job;
};
struct ForgetJob {
  JobId id;
};
struct SaveEvent {
  wire::Event event;
};
/// A row that the cluster's engine was told.
struct SaveInput {
  int64_t seq = 0;
  std::string row;
};
/// Lines of the cluster's decision log.
struct AppendLog {
  std::string lines;
};
// To be done after the journal has them.
struct Send {
  PeerId peer;
  wire::Message message;
  uint64_t request_id = 0;
};
/// Over the link to the coordinator.
struct SendUp {
  wire::Message message;
  uint64_t request_id = 0;
};
struct Close {
  PeerId peer;
  std::string reason;
};
struct WatchProcess {
  JobId job;
  int64_t pid = 0;
  int64_t start_time = 0;
};
struct UnwatchProcess {
  JobId job;
};
struct SetLanePolicy {
  int lane = 0;
  sched::TurnPolicyId policy = sched::TurnPolicyId::kFair;
};
struct ReapDead {};
struct Stop {
  std::string reason;
};

using Effect = std::variant<SaveJob, ForgetJob, SaveEvent, SaveInput, AppendLog, Send, SendUp,
                            Close, WatchProcess, UnwatchProcess, SetLanePolicy, ReapDead, Stop>;
using Effects = std::vector<Effect>;

/// How a process ended, as far as that can be known.
struct ExitStatus {
  std::optional<int64_t> code;
  std::optional<int64_t> signal;
};

/// Everything a decision may read and write.
struct Context {
  State& state;
  const Moment now;
  DeviceSource& device;
  Effects& effects;
};

/// A connection from the process `pid` (0 when not visible from here), or `remote` over TCP.
void OnConnected(Context& context, PeerId peer, int64_t pid, bool remote = false);
void OnMessage(Context& context, PeerId peer, uint64_t request_id, const wire::Message& message);
/// Bytes of a peer that break the protocol: it is told why and cut.
void OnBadFrame(Context& context, PeerId peer, uint64_t request_id, const absl::Status& why);
void OnClosed(Context& context, PeerId peer);
/// The process of a watched job is gone.
void OnProcessEnded(Context& context, JobId job, ExitStatus status);
/// Deadlines, repetitions, rates. Call every 100 ms while TickIsDue says so, else every second.
void Tick(Context& context);
bool TickIsDue(const State& state);
/// After the journal was replayed into the state: jobs whose process lives are watched, the others
/// have ended.
void OnRestored(Context& context, const std::vector<JobId>& alive);

// Shared by the files of the brain.

/// Records a decision: journal, memory, followers.
void Emit(Context& context, absl::string_view kind, absl::string_view job, std::string text,
          wire::Value::Map data = {});
void Save(Context& context, const Job& job);
void Reply(Context& context, PeerId peer, uint64_t request_id, wire::Value::Map data);
void ReplyError(Context& context, PeerId peer, uint64_t request_id, wire::AnswerError error,
                wire::Value::Map data = {});
wire::AnswerError NoSuchJob(const State& state, absl::string_view name);
/// Sends the newest grant to a job that is attached.
void SendGrant(Context& context, Job& job);
void SendOrder(Context& context, const Job& job, PendingOrder& order);

// commands.cc, orders.cc, queries.cc, settings.cc
inline constexpr size_t kEventsExplained = 10;
/// The newest events later than `since`, oldest first; with a job only its own.
wire::Value::Array EventsOf(const State& state, const std::string& job, int64_t since,
                            size_t count);
void OnQuery(Context& context, PeerId peer, uint64_t request_id, const wire::Query& query);
void OnCommand(Context& context, PeerId peer, uint64_t request_id, const wire::Command& command);
void OnSettingsCommand(Context& context, const Waiter& waiter, Job& job,
                       const wire::Command& command);
void OnOrderCommand(Context& context, const Waiter& waiter, Job& job, const wire::Command& command);
/// Changes the number of processes of the elastic job that `job` is one of; one order at a time.
void OrderResize(Context& context, Job& job, int64_t processes, std::string by, int64_t timeout_ms);
void OnGrantAck(Context& context, Job& job, const wire::GrantAck& ack);
/// Takes over a limit that the job has set itself.
void FollowOwnLimit(Context& context, Job& job, const wire::Report& report);
void OnOrderAck(Context& context, Job& job, const wire::OrderAck& ack);
/// What still waits for a job that has ended is answered.
void AbandonPending(Context& context, const Job& job, absl::string_view why);
/// Whether an order that pauses or resumes this job waits for its answer.
bool OrderUnderWay(State& state, const Job& job);
void TickChanges(Context& context);
void TickOrders(Context& context);

}  // namespace tide::coordinator

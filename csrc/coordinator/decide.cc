// Events, replies, connections and the dispatch of messages.
#include "coordinator/decide.h"

#include "absl/strings/str_cat.h"
#include "base/options.h"
#include "coordinator/registration.h"
#include "coordinator/text.h"

namespace tide::coordinator {
namespace {

constexpr size_t kEventTextBytesMax = 1000;
constexpr size_t kEventDataBytesMax = 8 << 10;

void OnHello(Context& context, PeerId id, Peer& peer, uint64_t request_id,
             const wire::Hello& hello) {
  if (hello.version != wire::kProtocolVersion) {
    ReplyError(context, id, request_id,
               {"version",
                absl::StrCat("this daemon speaks version ", wire::kProtocolVersion, ", you speak ",
                             hello.version),
                "use the same torchtide on both sides"});
    context.effects.push_back(Close{id, "another version"});
    return;
  }
  peer.said_hello = true;
  peer.role = hello.role;
  if (hello.role == wire::Role::kJob) return;  // its Welcome answers Register
  context.effects.push_back(Send{
      id,
      wire::Welcome{.generation = context.state.generation, .daemon_pid = context.state.daemon_pid},
      request_id});
}

void OnJobEvent(Context& context, const Job& job, const wire::Event& event) {
  wire::Value::Map data = event.data;
  if (wire::Pack(wire::Value(data)).size() > kEventDataBytesMax) data.clear();
  Emit(context, event.kind, job.name, event.text, std::move(data));
}

void OnNeedMemory(Context& context, const Job& job, const wire::NeedMemory& need) {
  const DeviceView view = context.device.Read();
  std::string text = absl::StrCat(job.name, " needs ", Size(need.bytes), " within ",
                                  Span(absl::Milliseconds(need.deadline_ms)));
  if (view.present && view.capacity_bytes > 0) {
    absl::StrAppend(&text, "; ", Size(view.used_bytes), " of ", Size(view.capacity_bytes),
                    " are in use");
  }
  Emit(context, "need_memory", job.name, std::move(text),
       {{"bytes", need.bytes},
        {"deadline_ms", need.deadline_ms},
        {"used", view.used_bytes},
        {"capacity", view.capacity_bytes}});
}

void OnReport(Context& context, Job& job, const wire::Report& report) {
  job.report = report;
  ReportUp(context, job, report);
  if (report.slot >= 0) job.slot = static_cast<int>(report.slot);
  FollowOwnLimit(context, job, report);
  const bool paused = report.paused.value_or(job.paused);
  if (paused == job.paused || OrderUnderWay(context.state, job)) return;
  job.paused = paused;
  job.paused_since = context.now.unix_s();
  job.paused_by = "its own process";
  Emit(context, paused ? "job_paused" : "job_resumed", job.name,
       absl::StrCat(job.name, " says that it ", paused ? "is paused" : "runs"));
  Save(context, job);
}

/// Messages that only a registered job sends.
bool OnJobMessage(Context& context, Job& job, const wire::Message& message) {
  if (const auto* report = std::get_if<wire::Report>(&message)) {
    OnReport(context, job, *report);
  } else if (const auto* ack = std::get_if<wire::GrantAck>(&message)) {
    OnGrantAck(context, job, *ack);
  } else if (const auto* order_ack = std::get_if<wire::OrderAck>(&message)) {
    OnOrderAck(context, job, *order_ack);
  } else if (const auto* event = std::get_if<wire::Event>(&message)) {
    OnJobEvent(context, job, *event);
  } else if (const auto* need = std::get_if<wire::NeedMemory>(&message)) {
    OnNeedMemory(context, job, *need);
  } else if (const auto* bye = std::get_if<wire::Bye>(&message)) {
    OnBye(context, job, *bye);
  } else {
    return false;
  }
  return true;
}

/// Messages of the cluster, from nodes and from this machine's command line.
bool OnClusterMessage(Context& context, PeerId id, uint64_t request_id,
                      const wire::Message& message) {
  const Peer& peer = context.state.peers.at(id);
  if (peer.role == wire::Role::kJob) return false;
  const bool asks = std::holds_alternative<wire::Submit>(message) ||
                    std::holds_alternative<wire::Finish>(message) ||
                    std::holds_alternative<wire::Reserve>(message) ||
                    std::holds_alternative<wire::Move>(message) ||
                    std::holds_alternative<wire::Drain>(message);
  if (asks && !context.state.cluster.engine && PassUp(context, id, request_id, message)) {
    return true;
  }
  if (const auto* report = std::get_if<wire::Report>(&message)) {
    OnClusterReport(context, *report);
  } else if (const auto* submit = std::get_if<wire::Submit>(&message)) {
    OnSubmit(context, id, request_id, *submit);
  } else if (const auto* finish = std::get_if<wire::Finish>(&message)) {
    OnFinish(context, id, request_id, *finish);
  } else if (const auto* reserve = std::get_if<wire::Reserve>(&message)) {
    OnReserve(context, id, request_id, *reserve);
  } else if (const auto* move = std::get_if<wire::Move>(&message)) {
    OnMove(context, id, request_id, *move);
  } else if (const auto* drain = std::get_if<wire::Drain>(&message)) {
    OnDrain(context, id, request_id, *drain);
  } else if (const auto* advance = std::get_if<wire::Advance>(&message)) {
    OnAdvance(context, id, request_id, *advance);
  } else if (peer.role != wire::Role::kNode) {
    return false;
  } else if (const auto* join = std::get_if<wire::Join>(&message)) {
    OnJoin(context, id, request_id, *join);
  } else if (const auto* lease = std::get_if<wire::Lease>(&message)) {
    OnLease(context, id, request_id, *lease);
  } else if (const auto* ack = std::get_if<wire::AllocationAck>(&message)) {
    OnAllocationAck(context, id, *ack);
  } else {
    return false;
  }
  return true;
}

}  // namespace

void Emit(Context& context, absl::string_view kind, absl::string_view job, std::string text,
          wire::Value::Map data) {
  State& state = context.state;
  wire::Event event{.seq = state.next_seq++,
                    .time = context.now.unix_s(),
                    .kind = std::string(wire::Utf8Prefix(kind, 64)),
                    .job = std::string(job),
                    .text = std::string(wire::Utf8Prefix(text, kEventTextBytesMax)),
                    .data = std::move(data)};
  state.events.push_back(event);
  if (state.events.size() > kEventsInMemory) state.events.pop_front();
  for (const auto& [id, follow] : state.followers) {
    if (follow.job.empty() || follow.job == job)
      context.effects.push_back(Send{id, event, follow.request_id});
  }
  context.effects.push_back(SaveEvent{std::move(event)});
}

void Save(Context& context, const Job& job) { context.effects.push_back(SaveJob{job}); }

void Reply(Context& context, PeerId peer, uint64_t request_id, wire::Value::Map data) {
  context.effects.push_back(
      Send{peer, wire::Answer{.ok = true, .data = wire::Value(std::move(data))}, request_id});
}

void ReplyError(Context& context, PeerId peer, uint64_t request_id, wire::AnswerError error,
                wire::Value::Map data) {
  context.effects.push_back(Send{
      peer,
      wire::Answer{.ok = false, .error = std::move(error), .data = wire::Value(std::move(data))},
      request_id});
}

wire::AnswerError NoSuchJob(const State& state, absl::string_view name) {
  const std::string known = state.KnownNames();
  return {"not_found", absl::StrCat("no job is named \"", name, "\""),
          known.empty() ? "no job runs; start one with `tide run -- python train.py`"
                        : absl::StrCat("jobs: ", known)};
}

void OnConnected(Context& context, PeerId peer, int64_t pid, bool remote) {
  context.state.peers[peer] = Peer{.pid = pid, .remote = remote};
}

void OnMessage(Context& context, PeerId id, uint64_t request_id, const wire::Message& message) {
  auto it = context.state.peers.find(id);
  if (it == context.state.peers.end()) return;  // closed meanwhile
  Peer& peer = it->second;
  if (const auto* hello = std::get_if<wire::Hello>(&message)) {
    return OnHello(context, id, peer, request_id, *hello);
  }
  if (!peer.said_hello) {
    return OnBadFrame(context, id, request_id,
                      absl::InvalidArgumentError("the first frame must be Hello"));
  }
  if (peer.remote && (std::holds_alternative<wire::Register>(message) ||
                      std::holds_alternative<wire::Command>(message))) {
    return ReplyError(context, id, request_id,
                      {"not_permitted", "jobs of this machine are commanded on this machine",
                       "over a link a node speaks for jobs of the cluster only"});
  }
  if (const auto* registration = std::get_if<wire::Register>(&message)) {
    return OnRegister(context, id, peer, request_id, *registration);
  }
  if (const auto* query = std::get_if<wire::Query>(&message)) {
    return OnQuery(context, id, request_id, *query);
  }
  if (const auto* command = std::get_if<wire::Command>(&message)) {
    return OnCommand(context, id, request_id, *command);
  }
  if (OnClusterMessage(context, id, request_id, message)) return;
  Job* job = context.state.FindJob(peer.job);
  if (job != nullptr && !job->live()) return;  // it said Bye; what was under way before is late
  if (job == nullptr || !OnJobMessage(context, *job, message)) {
    OnBadFrame(context, id, request_id,
               absl::InvalidArgumentError(absl::StrCat(wire::FrameKindName(wire::KindOf(message)),
                                                       " is not expected from this peer")));
  }
}

void OnBadFrame(Context& context, PeerId peer, uint64_t request_id, const absl::Status& why) {
  const bool version = wire::FrameErrorOf(why) == wire::FrameError::kWrongVersion;
  const bool secret = absl::IsPermissionDenied(why);
  ReplyError(
      context, peer, request_id,
      {version  ? "version"
       : secret ? "not_permitted"
                : "protocol",
       std::string(why.message()),
       secret ? "give both sides the same secret file" : "use the same torchtide on both sides"});
  context.effects.push_back(Close{peer, std::string(why.message())});
}

void OnClosed(Context& context, PeerId id) {
  State& state = context.state;
  auto it = state.peers.find(id);
  if (it == state.peers.end()) return;
  Job* job = state.FindJob(it->second.job);
  if (job != nullptr && job->peer == id) job->peer = PeerId();
  std::erase_if(state.changes,
                [&](const PendingChange& change) { return change.waiter.peer == id; });
  for (PendingOrder& order : state.orders) {
    std::erase_if(order.waiters, [&](const Waiter& waiter) { return waiter.peer == id; });
  }
  if (!it->second.node.empty()) OnNodeClosed(context, id, it->second.node);
  state.followers.erase(id);
  state.peers.erase(it);
}

}  // namespace tide::coordinator

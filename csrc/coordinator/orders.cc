// Pause, resume, stop and the limit of a device: orders with a deadline, answered by the job or
// rolled back by the daemon.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "coordinator/decide.h"
#include "coordinator/text.h"

namespace tide::coordinator {
namespace {

constexpr int64_t kGraceNs = 1'000'000'000;  // for the job's own rolled_back to arrive
constexpr int64_t kOrderRepeatNs = 2'000'000'000;
constexpr int64_t kRollbackTimeoutMs = 10'000;

absl::string_view Verb(wire::OrderKind kind) {
  switch (kind) {
    case wire::OrderKind::kSuspend:
      return "pause";
    case wire::OrderKind::kResume:
      return "resume";
    case wire::OrderKind::kLimitDevice:
      return "limit";
    case wire::OrderKind::kResize:
      return "resize";
    case wire::OrderKind::kStop:
      break;
  }
  return "stop";
}

void AnswerOrder(Context& context, const PendingOrder& order, const Job& job,
                 absl::string_view status, double took_ms, const std::string& text) {
  for (const Waiter& waiter : order.waiters) {
    Reply(context, waiter.peer, waiter.request_id,
          {{"job", job.name}, {"status", status}, {"took_ms", took_ms}, {"text", text}});
  }
}

void FailOrder(Context& context, const PendingOrder& order, const Job& job, absl::string_view code,
               const std::string& text, const std::string& advice) {
  for (const Waiter& waiter : order.waiters) {
    ReplyError(context, waiter.peer, waiter.request_id, {std::string(code), text, advice},
               {{"job", job.name}, {"status", code == "timeout" ? "rolled_back" : "failed"}});
  }
}

PendingOrder& NewOrder(Context& context, const Job& job, wire::OrderKind kind, int64_t timeout_ms) {
  PendingOrder order;
  order.id = context.state.next_order_id++;
  order.job = job.id;
  order.kind = kind;
  order.timeout_ms = timeout_ms;
  order.expires_ns = context.now.mono_ns + timeout_ms * 1'000'000 + kGraceNs;
  context.state.orders.push_back(std::move(order));
  return context.state.orders.back();
}

/// Orders of one subject follow each other: pause and resume decide the same.
wire::OrderKind Subject(wire::OrderKind kind) {
  return kind == wire::OrderKind::kResume ? wire::OrderKind::kSuspend : kind;
}

/// The order under way of the same subject, and for limits of the same device.
PendingOrder* FindOrder(State& state, const Job& job, wire::OrderKind kind, int64_t device = 0) {
  for (PendingOrder& order : state.orders) {
    if (order.job != job.id || Subject(order.kind) != Subject(kind)) continue;
    if (kind != wire::OrderKind::kLimitDevice || order.device == device) return &order;
  }
  return nullptr;
}

/// A newer order takes its place: what the job still says about this one changes nothing.
void Supersede(Context& context, const Job& job, const PendingOrder& order, wire::OrderKind by) {
  FailOrder(context, order, job, "failed",
            absl::StrCat(Verb(order.kind), " of ", job.name, ": `tide ", Verb(by), " ", job.name,
                         "` came meanwhile"),
            "");
  std::erase_if(context.state.orders,
                [id = order.id](const PendingOrder& other) { return other.id == id; });
}

/// By an order, or by itself.
bool IsPaused(Context& context, const Job& job) {
  if (job.paused) return true;
  const DeviceView view = context.device.Read();
  const SlotView* slot = view.Find(job.pid, static_cast<uint64_t>(job.start_time), job.slot);
  return slot != nullptr && slot->phase == shm::Phase::kPaused;
}

void AnswerNoop(Context& context, const Waiter& waiter, const Job& job, bool paused) {
  std::string text = absl::StrCat(job.name, paused ? " is paused already" : " is not paused");
  if (paused && job.paused_since > 0) {
    absl::StrAppend(&text, ", for ", Span(absl::Seconds(context.now.unix_s() - job.paused_since)));
  }
  Reply(context, waiter.peer, waiter.request_id,
        {{"job", job.name},
         {"status", paused ? "already_paused" : "already_running"},
         {"took_ms", 0.0},
         {"text", std::move(text)}});
}

/// What keeps a job from reaching a boundary, in numbers.
std::string Pace(Context& context, const Job& job) {
  const DeviceView view = context.device.Read();
  const SlotView* slot = view.Find(job.pid, static_cast<uint64_t>(job.start_time), job.slot);
  if (slot == nullptr) return "";
  return absl::StrCat(" (iteration ", slot->iterations, ", usually ",
                      Span(absl::Nanoseconds(slot->last_iteration_ns)), ")");
}

void Done(Context& context, Job& job, const PendingOrder& order, const wire::OrderAck& ack) {
  const std::string took = Span(absl::Milliseconds(ack.took_ms));
  const std::string by =
      order.by.empty() ? absl::StrCat("`tide ", Verb(order.kind), "`") : order.by;
  std::string text, kind;
  if (order.kind == wire::OrderKind::kSuspend) {
    job.paused = true;
    job.paused_since = context.now.unix_s();
    job.paused_by = by;
    job.suspend_took_ms = ack.took_ms;
    kind = "job_paused";
    text = absl::StrCat(job.name, " paused by ", by, " in ", took);
  } else if (order.kind == wire::OrderKind::kResume) {
    const absl::Duration away = absl::Seconds(context.now.unix_s() - job.paused_since);
    kind = "job_resumed";
    text = absl::StrCat(job.name, " resumed by ", by, " in ", took);
    if (job.paused && job.paused_since > 0) absl::StrAppend(&text, " after ", Span(away));
    job.paused = false;
  } else if (order.kind == wire::OrderKind::kLimitDevice) {
    kind = "device_limited";
    text = absl::StrCat("limit of ", job.name, " on device ", order.device, " is ",
                        Limit(order.bytes), " by ", by, ", in ", took);
  } else if (order.kind == wire::OrderKind::kResize) {
    kind = "job_resized";
    text = absl::StrCat(JobOfProcess(job.name), " has ", Processes(order.processes), " by ", by,
                        ", in ", took);
  } else {
    kind = "job_stopping";
    text = absl::StrCat(job.name, " stops at its boundary, asked by ", by);
  }
  if (!ack.text.empty()) absl::StrAppend(&text, "; ", ack.text);
  AnswerOrder(context, order, job, "done", ack.took_ms, text);
  Emit(context, kind, job.name, std::move(text), {{"took_ms", ack.took_ms}});
  Save(context, job);
}

void Undone(Context& context, Job& job, const PendingOrder& order, absl::string_view code,
            absl::string_view reason) {
  const bool resize = order.kind == wire::OrderKind::kResize;
  const std::string text =
      resize ? absl::StrCat(JobOfProcess(job.name), " does not go on with ",
                            Processes(order.processes), " as ", order.by, " wants: ", reason)
             : absl::StrCat(Verb(order.kind), " of ", job.name, " was rolled back: ", reason);
  FailOrder(context, order, job, code, text,
            absl::StrCat("it goes on as before; give it longer: `tide ", Verb(order.kind), " ",
                         job.name, " --timeout 60`"));
  Emit(context, "order_rolled_back", job.name, text, {{"order", Verb(order.kind)}});
}

}  // namespace

bool OrderUnderWay(State& state, const Job& job) {
  return FindOrder(state, job, wire::OrderKind::kSuspend) != nullptr;
}

void SendOrder(Context& context, const Job& job, PendingOrder& order) {
  if (!job.attached()) return;
  order.sent_ns = context.now.mono_ns;
  const int64_t left_ms = (order.expires_ns - kGraceNs - context.now.mono_ns) / 1'000'000;
  context.effects.push_back(Send{job.peer, wire::Order{.order_id = order.id,
                                                       .kind = order.kind,
                                                       .deadline_ms = std::max<int64_t>(0, left_ms),
                                                       .device = order.device,
                                                       .bytes = order.bytes,
                                                       .processes = order.processes,
                                                       .deep = order.deep}});
}

void OrderResize(Context& context, Job& job, int64_t processes, std::string by,
                 int64_t timeout_ms) {
  PendingOrder& order = NewOrder(context, job, wire::OrderKind::kResize, timeout_ms);
  order.by = std::move(by);
  order.processes = processes;
  Emit(context, "order_sent", job.name,
       absl::StrCat("resize of ", JobOfProcess(job.name), " to ", Processes(processes),
                    " asked by ", order.by, ", within ", Span(absl::Milliseconds(timeout_ms))),
       {{"order", "resize"}, {"order_id", order.id}, {"processes", processes}});
  Save(context, job);
  SendOrder(context, job, order);
}

void OnOrderCommand(Context& context, const Waiter& waiter, Job& job,
                    const wire::Command& command) {
  const wire::OrderKind kind = command.what == "pause"    ? wire::OrderKind::kSuspend
                               : command.what == "resume" ? wire::OrderKind::kResume
                               : command.what == "stop"   ? wire::OrderKind::kStop
                                                          : wire::OrderKind::kLimitDevice;
  const bool limits = kind == wire::OrderKind::kLimitDevice;
  const int64_t bytes = command.bytes.value_or(0);
  if (limits && (bytes < 0 || command.device < 0)) {
    return ReplyError(
        context, waiter.peer, waiter.request_id,
        {"invalid", "a limit and a device are no negative numbers", "0 bytes stand for no limit"});
  }
  if (command.deep && kind != wire::OrderKind::kSuspend) {
    return ReplyError(
        context, waiter.peer, waiter.request_id,
        {"invalid", absl::StrCat("`deep` is for a pause, not for `tide ", Verb(kind), "`"),
         "leave it out"});
  }
  PendingOrder* under_way = FindOrder(context.state, job, kind, command.device);
  if (under_way != nullptr && under_way->kind == kind && (!limits || under_way->bytes == bytes)) {
    if (command.deep && !under_way->deep) {
      return ReplyError(
          context, waiter.peer, waiter.request_id,
          {"unavailable", absl::StrCat("a pause of ", job.name, " that is not deep is under way"),
           absl::StrCat("`tide resume ", job.name, "`, then pause it again")});
    }
    under_way->rollback = false;  // now somebody wants what the daemon did by itself
    under_way->waiters.push_back(waiter);
    return;
  }
  const bool wants_paused = kind == wire::OrderKind::kSuspend;
  if (under_way == nullptr && Subject(kind) == wire::OrderKind::kSuspend &&
      IsPaused(context, job) == wants_paused) {
    return AnswerNoop(context, waiter, job, wants_paused);
  }
  if (!job.attached()) {
    return ReplyError(
        context, waiter.peer, waiter.request_id,
        {"unavailable",
         absl::StrCat(job.name, " (pid ", job.pid, ") is not connected to the daemon"),
         "it connects again within 5 s when it can; try then"});
  }
  const int64_t timeout_ms = std::clamp<int64_t>(command.timeout_ms, 1, 3'600'000);
  if (under_way != nullptr) Supersede(context, job, *under_way, kind);
  PendingOrder& order = NewOrder(context, job, kind, timeout_ms);
  order.by = command.by;
  order.device = limits ? command.device : 0;
  order.bytes = limits ? bytes : 0;
  order.deep = command.deep;
  order.waiters.push_back(waiter);
  Emit(context, "order_sent", job.name,
       absl::StrCat(Verb(kind), " of ", job.name, " asked by ",
                    command.by.empty() ? absl::StrCat("`tide ", Verb(kind), "`") : command.by,
                    ", within ", Span(absl::Milliseconds(timeout_ms))),
       {{"order", Verb(kind)}, {"order_id", order.id}});
  Save(context, job);  // keeps the number of the order: a number is never used twice
  SendOrder(context, job, order);
}

void OnOrderAck(Context& context, Job& job, const wire::OrderAck& ack) {
  auto& orders = context.state.orders;
  auto it = std::find_if(orders.begin(), orders.end(), [&](const PendingOrder& order) {
    return order.id == ack.order_id && order.job == job.id;
  });
  if (it == orders.end()) return;  // repeated, or rolled back meanwhile
  const PendingOrder order = std::move(*it);
  orders.erase(it);
  if (order.rollback) {
    job.paused = ack.status == wire::OrderStatus::kDone ? false : job.paused;
    Save(context, job);
    return;
  }
  if (ack.status == wire::OrderStatus::kDone) return Done(context, job, order, ack);
  const bool late = ack.status == wire::OrderStatus::kRolledBack;
  const std::string otherwise =
      late ? absl::StrCat("not at a boundary within ", Span(absl::Milliseconds(order.timeout_ms)),
                          Pace(context, job))
           : std::string("the job could not");
  Undone(context, job, order, late ? "timeout" : "failed", ack.text.empty() ? otherwise : ack.text);
}

void AbandonPending(Context& context, const Job& job, absl::string_view why) {
  std::erase_if(context.state.orders, [&](const PendingOrder& order) {
    if (order.job != job.id) return false;
    FailOrder(context, order, job, "failed",
              absl::StrCat(Verb(order.kind), " came too late: ", why), "");
    return true;
  });
  std::erase_if(context.state.changes, [&](const PendingChange& change) {
    if (change.job != job.id) return false;
    ReplyError(context, change.waiter.peer, change.waiter.request_id,
               {"failed", absl::StrCat(change.what, " came too late: ", why), ""});
    return true;
  });
}

void TickOrders(Context& context) {
  State& state = context.state;
  std::vector<PendingOrder> expired;
  std::erase_if(state.orders, [&](PendingOrder& order) {
    if (order.expires_ns > context.now.mono_ns) return false;
    expired.push_back(std::move(order));
    return true;
  });
  for (const PendingOrder& order : expired) {
    Job* job = state.FindJob(order.job);
    if (job == nullptr || order.rollback) continue;  // a rollback that nobody answered is over
    Undone(context, *job, order, "timeout",
           absl::StrCat("not at a boundary within ", Span(absl::Milliseconds(order.timeout_ms)),
                        Pace(context, *job)));
    if (order.kind != wire::OrderKind::kSuspend || !job->live()) continue;
    PendingOrder& back = NewOrder(context, *job, wire::OrderKind::kResume, kRollbackTimeoutMs);
    back.rollback = true;
    Save(context, *job);
    SendOrder(context, *job, back);
  }
  for (PendingOrder& order : state.orders) {
    const Job* job = state.FindJob(order.job);
    const bool in_time = order.expires_ns - kGraceNs > context.now.mono_ns;
    const bool due = context.now.mono_ns - order.sent_ns >= kOrderRepeatNs;
    if (job != nullptr && in_time && due) SendOrder(context, *job, order);
  }
}

}  // namespace tide::coordinator

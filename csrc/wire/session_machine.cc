// What the session says when, and what it makes of what it hears.
#include "wire/session_machine.h"

#include <algorithm>
#include <limits>

#include "base/status.h"

namespace tide::wire {
namespace {

constexpr size_t kOrdersKnown = 16;
constexpr size_t kGrantsKnown = 16;

}  // namespace

SessionMachine::SessionMachine(SessionOptions options)
    : options_(std::move(options)), backoff_(options_.backoff_min) {
  seen_revision_ = options_.job.revision;
}

void SessionMachine::Connected(int64_t now_ns) {
  connected_ = true;
  connected_at_ns_ = now_ns;
  said_hello_ = registered_ = welcomed_ = false;
}

void SessionMachine::Lost(int64_t now_ns) {
  connected_ = welcomed_ = false;
  connect_at_ns_ = now_ns + absl::ToInt64Nanoseconds(backoff_);
  backoff_ = std::min(backoff_ * 2, options_.backoff_max);
}

bool SessionMachine::Overdue(int64_t now_ns) const {
  return connected_ && !welcomed_ &&
         now_ns - connected_at_ns_ > absl::ToInt64Nanoseconds(options_.welcome_timeout);
}

std::optional<Frame> SessionMachine::NextFrame(int64_t now_ns) {
  auto message = NextMessage(now_ns);
  if (!message) return std::nullopt;
  auto frame = EncodeMessage(*std::move(message), 0, static_cast<uint64_t>(generation_));
  if (!frame.ok()) return NextFrame(now_ns);  // over its bound: that one is lost, the next goes
  return *std::move(frame);
}

std::optional<Message> SessionMachine::NextMessage(int64_t now_ns) {
  if (!connected_ || said_bye_) return std::nullopt;
  if (!said_hello_) {
    said_hello_ = true;
    return Hello{.role = Role::kJob, .pid = options_.job.pid};
  }
  if (!registered_) {
    registered_ = true;
    return options_.job;
  }
  if (!welcomed_) return std::nullopt;
  if (!acks_.empty()) {
    Message ack = std::move(acks_.front());
    acks_.pop_front();
    return ack;
  }
  if (need_) return Message(*std::exchange(need_, std::nullopt));
  if (!events_.empty()) {
    Message event = std::move(events_.front());
    events_.pop_front();
    return event;
  }
  if (report_ && (now_ns >= report_at_ns_ || bye_)) {
    report_at_ns_ = now_ns + absl::ToInt64Nanoseconds(options_.report_interval);
    Report report = *std::exchange(report_, std::nullopt);
    report.paused = options_.job.paused;
    return Message(std::move(report));
  }
  if (bye_) {
    said_bye_ = true;
    return Message(*bye_);
  }
  return std::nullopt;
}

absl::StatusOr<SessionMachine::Incoming> SessionMachine::OnFrame(const Frame& frame,
                                                                 int64_t now_ns) {
  Incoming incoming;
  const int64_t generation = static_cast<int64_t>(frame.generation);
  if (generation < generation_) return incoming;  // a daemon that has been replaced
  generation_ = generation;
  TIDE_ASSIGN_OR_RETURN(Message message, DecodeMessage(frame));
  if (auto* welcome = std::get_if<Welcome>(&message)) {
    if (welcome->job_id == 0) return incoming;  // of Hello; the one of Register follows
    welcomed_ = true;
    backoff_ = options_.backoff_min;
    options_.job.job_id = welcome->job_id;
    options_.job.name = welcome->name;
    report_at_ns_ = now_ns;
    incoming.welcome = std::move(*welcome);
  } else if (auto* grant = std::get_if<Grant>(&message)) {
    if (AcceptGrant(*grant)) incoming.grant = std::move(*grant);
  } else if (auto* order = std::get_if<Order>(&message)) {
    if (AcceptOrder(*order)) incoming.order = *order;
  } else if (auto* answer = std::get_if<Answer>(&message)) {
    incoming.refusal = std::move(answer->error);
  }
  return incoming;
}

bool SessionMachine::AcceptGrant(const Grant& grant) {
  if (grant.revision > seen_revision_) {
    seen_revision_ = grant.revision;
    grants_.push_back(grant);
    if (grants_.size() > kGrantsKnown) grants_.pop_front();
    return true;
  }
  if (last_ack_ && last_ack_->revision == grant.revision) {
    QueueAck(*last_ack_);  // the first one was lost on the way
  } else if (grant.revision < seen_revision_ || grants_.empty()) {
    QueueAck(GrantAck{.revision = grant.revision, .status = GrantStatus::kStale});
  }
  return false;
}

bool SessionMachine::AcceptOrder(const Order& order) {
  for (const KnownOrder& known : orders_) {
    if (known.order.order_id != order.order_id) continue;
    if (known.ack) QueueAck(*known.ack);
    return false;
  }
  if (order.order_id < seen_order_) {
    QueueAck(OrderAck{.order_id = order.order_id,
                      .status = OrderStatus::kFailed,
                      .text = "a newer order came before this one"});
    return false;
  }
  seen_order_ = order.order_id;
  orders_.push_back({order, std::nullopt});
  if (orders_.size() > kOrdersKnown) orders_.pop_front();
  return true;
}

void SessionMachine::QueueAck(Message ack) {
  acks_.push_back(std::move(ack));
  if (acks_.size() > options_.queue_max) acks_.pop_front();  // the daemon asks again
}

void SessionMachine::Post(Report report) {
  if (report.revision.value_or(0) > seen_revision_) {
    // No grant brought it: the job has set its own limit, and says so when it registers again.
    seen_revision_ = options_.job.revision = *report.revision;
    options_.job.max_bytes = report.max_bytes;
    options_.job.min_bytes = report.guaranteed_bytes;
  }
  report_ = std::move(report);
}

void SessionMachine::Post(Event event) {
  if (events_.size() >= options_.queue_max) {
    events_.pop_front();
    ++events_dropped_;
  }
  events_.push_back(std::move(event));
}

void SessionMachine::Post(GrantAck ack) {
  Register& job = options_.job;
  const bool newest = !last_ack_ || ack.revision >= last_ack_->revision;
  if (newest && ack.status == GrantStatus::kApplied) {
    for (const Grant& grant : grants_) {
      if (grant.revision != ack.revision) continue;
      job.max_bytes = grant.max_bytes;
      job.min_bytes = grant.guaranteed_bytes;
      job.priority = grant.priority;
    }
  }
  ack.max_bytes = job.max_bytes;
  ack.guaranteed_bytes = job.min_bytes;
  if (newest) {
    last_ack_ = ack;
    const bool settled =
        ack.status == GrantStatus::kApplied || ack.status == GrantStatus::kConflict;
    if (settled) job.revision = ack.revision;
  }
  QueueAck(std::move(ack));
}

void SessionMachine::Post(OrderAck ack) {
  for (KnownOrder& known : orders_) {
    if (known.order.order_id != ack.order_id) continue;
    known.ack = ack;
    const bool paused = known.order.kind == OrderKind::kSuspend;
    if (ack.status == OrderStatus::kDone && (paused || known.order.kind == OrderKind::kResume)) {
      options_.job.paused = paused;
    }
  }
  QueueAck(std::move(ack));
}

int64_t SessionMachine::NextDeadlineNs(int64_t now_ns) const {
  if (!connected_) return connect_at_ns_;
  if (!welcomed_) {
    return said_hello_ && registered_
               ? connected_at_ns_ + absl::ToInt64Nanoseconds(options_.welcome_timeout) + 1
               : now_ns;
  }
  if (!acks_.empty() || need_ || !events_.empty() || (bye_ && !said_bye_)) return now_ns;
  if (report_) return report_at_ns_;
  return std::numeric_limits<int64_t>::max();
}

}  // namespace tide::wire

// The job's side of the protocol as a state machine without threads, sockets or clocks: frames in,
// frames out.
#pragma once

#include <deque>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "wire/messages.h"

namespace tide::wire {

struct SessionOptions {
  Register job;  // who registers; token 0 is replaced by the session
  absl::Duration report_interval =
      absl::Milliseconds(100);  // reports in between merge to the newest
  absl::Duration backoff_min = absl::Milliseconds(100);
  absl::Duration backoff_max = absl::Seconds(5);
  absl::Duration welcome_timeout = absl::Seconds(2);
  size_t queue_max = 256;  // frames of each sort that wait; the oldest event goes first
};

/// Times are monotonic nanoseconds given by the caller. Not thread-safe.
class SessionMachine {
 public:
  /// What a frame from the daemon means for the job.
  struct Incoming {
    std::optional<Welcome> welcome;
    std::optional<Grant> grant;
    std::optional<Order> order;
    std::optional<AnswerError> refusal;
  };

  explicit SessionMachine(SessionOptions options);

  // Connection. The owner connects when ShouldConnect, and tells how it went.
  bool ShouldConnect(int64_t now_ns) const { return !connected_ && now_ns >= connect_at_ns_; }
  void Connected(int64_t now_ns);
  /// The connection failed or ended: the next attempt waits longer.
  void Lost(int64_t now_ns);
  /// True when the daemon has been silent after Register for too long; the owner then cuts and
  /// calls Lost.
  bool Overdue(int64_t now_ns) const;

  /// The next frame to send now; nothing when none is due.
  std::optional<Frame> NextFrame(int64_t now_ns);
  /// Applies a frame of the daemon. Errors: a body that breaks the protocol; the owner then cuts.
  absl::StatusOr<Incoming> OnFrame(const Frame& frame, int64_t now_ns);
  /// When something is due next without any outside event; INT64_MAX when nothing is.
  int64_t NextDeadlineNs(int64_t now_ns) const;

  // What the job wants to say. Never grows beyond its bounds.
  void Post(Report report);
  void Post(Event event);
  void Post(GrantAck ack);
  void Post(OrderAck ack);
  void Post(NeedMemory need) { need_ = need; }
  void Post(Bye bye) { bye_ = bye; }
  /// The job paused or resumed itself; the daemon learns it with the next Report.
  void set_paused(bool paused) { options_.job.paused = paused; }

  bool welcomed() const { return welcomed_; }
  bool said_bye() const { return said_bye_; }
  int64_t job_id() const { return options_.job.job_id; }
  const std::string& name() const { return options_.job.name; }
  int64_t revision_seen() const { return seen_revision_; }
  int64_t events_dropped() const { return events_dropped_; }

 private:
  struct KnownOrder {
    Order order;
    std::optional<OrderAck> ack;
  };

  bool AcceptGrant(const Grant& grant);
  bool AcceptOrder(const Order& order);
  void QueueAck(Message ack);
  std::optional<Message> NextMessage(int64_t now_ns);

  SessionOptions
      options_;  // job keeps id, name, limit and revision up to date for the next Register
  bool connected_ = false, said_hello_ = false, registered_ = false, welcomed_ = false,
       said_bye_ = false;
  int64_t connect_at_ns_ = 0;
  int64_t connected_at_ns_ = 0;
  absl::Duration backoff_;
  int64_t generation_ = 0;

  int64_t seen_revision_ = 0;
  std::deque<Grant> grants_;  // handed to the job, newest last
  std::optional<GrantAck> last_ack_;
  std::deque<KnownOrder> orders_;
  int64_t seen_order_ = 0;

  std::deque<Message> acks_;
  std::deque<Event> events_;
  std::optional<Report> report_;
  std::optional<NeedMemory> need_;
  std::optional<Bye> bye_;
  int64_t report_at_ns_ = 0;
  int64_t events_dropped_ = 0;
};

}  // namespace tide::wire

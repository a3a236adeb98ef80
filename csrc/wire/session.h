// JobSession: the job's connection with the daemon, on one thread of its own; callers never wait
// for it.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "wire/messages.h"
#include "wire/session_machine.h"

namespace tide::wire {

/// Called on the I/O thread, one at a time, without any lock of the session held: they may call its
/// Post methods. They must not throw, and not destroy the session.
struct SessionCallbacks {
  std::function<void(const Welcome&)> on_welcome;      // after each (re-)attachment
  std::function<void(const Grant&)> on_grant;          // each revision once, growing
  std::function<void(const Order&)> on_order;          // each order once
  std::function<void(const AnswerError&)> on_refusal;  // the daemon refused the registration
};

/// Thread-safe. Connects to `socket_path` and keeps trying while it lives; a missing daemon costs
/// nothing else.
class JobSession {
 public:
  JobSession(std::string socket_path, SessionOptions options, SessionCallbacks callbacks,
             Clock& clock = RealClock());
  /// Ends the thread without a Bye; waits for a callback that runs.
  ~JobSession();

  // Never wait; bounded queues (SessionOptions). Nothing happens after Bye or in a forked child.
  void Post(Report report);
  void Post(Event event);
  void Post(GrantAck ack);
  void Post(OrderAck ack);
  void Post(NeedMemory need);
  /// The job paused or resumed itself, without an order; the daemon learns it with the next Report.
  void SetPaused(bool paused);

  /// Says Bye, waits at most `timeout` until it is on its way, and ends the thread. Not from a
  /// callback.
  void Bye(int64_t exit_code, absl::Duration timeout);

  /// Waits until the daemon knows this job. Errors: DeadlineExceeded. Not from a callback.
  absl::Status WaitAttached(absl::Duration timeout);
  bool attached() const;
  /// 0 and the wished name before the first attachment.
  int64_t job_id() const;
  std::string name() const;

  /// In a forked child, before anything else: closes the child's copies of the descriptors. The
  /// thread does not exist there and its lock may be held forever, so the state is left behind,
  /// never freed.
  void AbandonAfterFork();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tide::wire

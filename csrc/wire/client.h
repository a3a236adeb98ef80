// The synchronous client of the command line: one connection, one request at a time, every wait
// with a deadline.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "wire/messages.h"
#include "wire/unix_channel.h"

namespace tide::wire {

/// Called between slices of a wait; an error ends the wait with it (a notebook's interrupt).
using Interrupt = absl::Status (*)();

class Client {
 public:
  /// Connects and says Hello. Errors: Unavailable when no daemon answers, DeadlineExceeded,
  /// FailedPrecondition when the daemon refuses (another version, another user).
  static absl::StatusOr<std::unique_ptr<Client>> Connect(const std::string& socket_path,
                                                         absl::Duration timeout);

  /// Sends a frame and returns the frame that answers it; event frames that come meanwhile are kept
  /// for Next. Errors: Unavailable (the connection ended), DeadlineExceeded, a FrameError.
  absl::StatusOr<Frame> Request(Frame request, absl::Duration timeout);
  /// The same with messages. Errors: also InvalidArgument for an answer that cannot be read.
  absl::StatusOr<Answer> Ask(Message message, absl::Duration timeout);
  /// The next event frame of a followed query, or nothing within `timeout`. Errors: as Request.
  absl::StatusOr<std::optional<Frame>> Next(absl::Duration timeout);

  void set_interrupt(Interrupt interrupt) { interrupt_ = interrupt; }
  const Welcome& welcome() const { return welcome_; }
  void Close() { channel_.Close(); }

 private:
  explicit Client(UniqueFd socket) : channel_(std::move(socket)) {}
  absl::StatusOr<std::optional<Frame>> ReceiveUntil(absl::Time deadline);

  UnixChannel channel_;
  Welcome welcome_;
  uint64_t last_request_id_ = 0;
  std::deque<Frame> events_;  // bounded by kEventsKept
  Interrupt interrupt_ = nullptr;
};

}  // namespace tide::wire

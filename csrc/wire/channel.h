// A channel carries frames between two ends in order; one interface for Unix sockets and for
// simulated links.
#pragma once

#include <optional>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "wire/frame.h"

namespace tide::wire {

/// One end of a link. Not thread-safe: one thread owns an end. Frames arrive whole, in order, at
/// most once.
class Channel {
 public:
  virtual ~Channel() = default;
  /// Queues a frame and never waits. Errors: ResourceExhausted when the peer reads too slowly and
  /// too many bytes wait, Unavailable when the link is cut, a FrameError for a body over its bound.
  virtual absl::Status Send(const Frame& frame) = 0;
  /// The next frame that has arrived, or nothing. Never waits. Errors: Unavailable when the link is
  /// cut and everything that came before was returned; a FrameError when the peer breaks the
  /// protocol. Both are final.
  virtual absl::StatusOr<std::optional<Frame>> Receive() = 0;
  /// Waits until a frame may have arrived, the link is cut, or `timeout` has passed; sends what is
  /// queued.
  virtual void Wait(absl::Duration timeout) = 0;
  /// Cuts the link; the other end notices after it has read what was sent.
  virtual void Close() = 0;
};

}  // namespace tide::wire

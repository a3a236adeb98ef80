// One accepted connection: reads frames at a bounded rate, writes from a bounded queue. Only for
// server.cc.
#pragma once

#include <memory>
#include <string>

#ifndef ASIO_STANDALONE
#define ASIO_STANDALONE
#endif
#include <asio.hpp>

#include "coordinator/frame_stream.h"
#include "coordinator/state.h"
#include "coordinator/token_bucket.h"
#include "wire/frame.h"

namespace tide::coordinator {

/// What the connection tells its owner; called on the daemon's one thread, never from within Send
/// or Close.
class PeerHandler {
 public:
  virtual ~PeerHandler() = default;
  /// The peer has proven that it may talk; on a Unix socket it may from the start and this is not
  /// called.
  virtual void OnOpen(PeerId /*peer*/) {}
  virtual void OnFrame(PeerId peer, const wire::Frame& frame) = 0;
  /// The peer broke the protocol; the owner answers and closes.
  virtual void OnBroken(PeerId peer, const absl::Status& why) = 0;
  /// The connection is over; it calls nothing afterwards.
  virtual void OnGone(PeerId peer, const std::string& why) = 0;
};

struct PeerLimits {
  size_t queued_bytes_max = 16 << 20;
  double frames_per_s = 5000;
  double frames_burst = 10'000;
};

/// Shared, because handlers of Asio keep it alive until they have run.
class PeerConnection : public std::enable_shared_from_this<PeerConnection> {
 public:
  using Socket = asio::generic::stream_protocol::socket;
  struct Identity {
    PeerId id;
    int64_t connected_ns = 0;
    std::string from;  // where it connects from, for people
  };
  PeerConnection(Socket socket, Identity identity, PeerLimits limits,
                 std::unique_ptr<FrameStream> stream, PeerHandler& handler);

  void Start();
  /// Queues a frame; a peer that reads too slowly is cut.
  void Send(const wire::Frame& frame);
  /// Closes once what is queued has been written, at the latest after two seconds.
  void CloseSoon(const std::string& reason);
  /// Closes now; OnGone follows.
  void Cut(const std::string& reason);

  int64_t connected_ns() const { return identity_.connected_ns; }
  const std::string& from() const { return identity_.from; }
  bool open() const { return stream_->open(); }

 private:
  void WaitReadable();
  void WaitWritable();
  void ReadSome();
  bool HandleFrames();
  void Break(const absl::Status& why);
  void WriteIfIdle();
  void WriteSome();
  void Later();

  Socket socket_;
  asio::steady_timer timer_;
  const Identity identity_;
  const PeerLimits limits_;
  PeerHandler& handler_;  // the server, which outlives its connections
  const std::unique_ptr<FrameStream> stream_;
  std::string out_;
  size_t out_start_ = 0;
  bool writing_ = false, closing_ = false, broken_ = false, gone_ = false;
  TokenBucket tokens_;
};

}  // namespace tide::coordinator

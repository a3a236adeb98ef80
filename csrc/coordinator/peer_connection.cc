// Reading and writing of one connection.
#include "coordinator/peer_connection.h"

#include <sys/socket.h>

namespace tide::coordinator {
namespace {

constexpr size_t kReadBytes = 64 << 10;
constexpr int kFramesPerTurn = 256;  // then the other peers have their turn
constexpr auto kThrottle = std::chrono::milliseconds(10);
constexpr auto kCloseGrace = std::chrono::seconds(2);

}  // namespace

PeerConnection::PeerConnection(Socket socket, Identity identity, PeerLimits limits,
                               std::unique_ptr<FrameStream> stream, PeerHandler& handler)
    : socket_(std::move(socket)),
      timer_(socket_.get_executor()),
      identity_(std::move(identity)),
      limits_(limits),
      handler_(handler),
      stream_(std::move(stream)),
      tokens_(limits.frames_per_s, limits.frames_burst, std::chrono::steady_clock::now()) {
  socket_.non_blocking(true);
}

void PeerConnection::Start() {
  const absl::Status begun = stream_->Begin(out_);
  if (!begun.ok()) return Break(begun);
  WriteIfIdle();
  if (!gone_) WaitReadable();
}

void PeerConnection::Break(const absl::Status& why) {
  broken_ = true;
  handler_.OnBroken(identity_.id, why);
}

void PeerConnection::WaitReadable() {
  socket_.async_wait(Socket::wait_read, [self = shared_from_this()](const asio::error_code& error) {
    if (!error && !self->gone_) self->ReadSome();
  });
}

void PeerConnection::ReadSome() {
  char bytes[kReadBytes];
  asio::error_code error;
  const size_t got = socket_.read_some(asio::buffer(bytes), error);
  if (error && error != asio::error::would_block && error != asio::error::interrupted) {
    return Cut(error == asio::error::eof ? "closed by the peer" : error.message());
  }
  if (broken_ || closing_) return WaitReadable();  // what it still says is not heard; its end is
  const bool was_open = stream_->open();
  const absl::Status fed = stream_->Feed(absl::string_view(bytes, got), out_);
  WriteIfIdle();  // an alert that says why, too
  if (gone_) return;
  if (!fed.ok()) Break(fed);
  if (!was_open && stream_->open()) handler_.OnOpen(identity_.id);
  if (broken_ || HandleFrames()) WaitReadable();
}

/// Goes on with what is buffered after a short while.
void PeerConnection::Later() {
  timer_.expires_after(kThrottle);
  timer_.async_wait([self = shared_from_this()](const asio::error_code& error) {
    if (error || self->gone_ || self->closing_) return;
    if (self->HandleFrames()) self->WaitReadable();
  });
}

/// True when everything whole has been handled and more bytes are wanted.
bool PeerConnection::HandleFrames() {
  for (int handled = 0; !gone_ && !closing_; ++handled) {
    if (handled == kFramesPerTurn) {
      asio::post(socket_.get_executor(), [self = shared_from_this()] {
        if (!self->gone_ && self->HandleFrames()) self->WaitReadable();
      });
      return false;
    }
    if (!tokens_.Ready(std::chrono::steady_clock::now())) {
      Later();
      return false;
    }
    auto frame = stream_->Next();
    if (!frame.ok()) {
      Break(frame.status());
      return true;
    }
    if (!*frame) return true;
    tokens_.Take();
    handler_.OnFrame(identity_.id, **frame);
  }
  return !gone_;
}

void PeerConnection::Send(const wire::Frame& frame) {
  if (gone_ || closing_) return;
  if (!stream_->Encode(frame, out_).ok()) return;
  if (out_.size() - out_start_ > limits_.queued_bytes_max) return Cut("it reads too slowly");
  WriteIfIdle();
}

void PeerConnection::WriteIfIdle() {
  if (!writing_) WriteSome();
}

void PeerConnection::WriteSome() {
  writing_ = false;
  while (out_start_ < out_.size()) {
    const ssize_t sent = send(socket_.native_handle(), out_.data() + out_start_,
                              out_.size() - out_start_, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return WaitWritable();
    if (sent < 0) return Cut("gone while it was written to");
    out_start_ += static_cast<size_t>(sent);
    if (out_start_ >= out_.size() / 2) {
      out_.erase(0, out_start_);
      out_start_ = 0;
    }
  }
  if (closing_) Cut("closed");
}

void PeerConnection::WaitWritable() {
  writing_ = true;
  socket_.async_wait(Socket::wait_write,
                     [self = shared_from_this()](const asio::error_code& error) {
                       if (!error && !self->gone_) self->WriteSome();
                     });
}

void PeerConnection::CloseSoon(const std::string& reason) {
  if (gone_ || closing_) return;
  if (!writing_) return Cut(reason);
  closing_ = true;
  timer_.expires_after(kCloseGrace);
  timer_.async_wait([self = shared_from_this()](const asio::error_code& error) {
    if (!error) self->Cut("it did not read the last answer");
  });
}

void PeerConnection::Cut(const std::string& reason) {
  if (gone_) return;
  gone_ = true;
  asio::error_code ignored;
  timer_.cancel(ignored);
  // Shut down first: closing with unread bytes would take the last answer away from the peer.
  socket_.shutdown(Socket::shutdown_both, ignored);
  socket_.close(ignored);
  // Posted, so that the owner may be in the middle of a loop over its peers.
  asio::post(timer_.get_executor(), [self = shared_from_this(), reason] {
    self->handler_.OnGone(self->identity_.id, reason);
  });
}

}  // namespace tide::coordinator

// A node of a cluster by hand: frames over TCP, proven and sealed, for tests and load.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <memory>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "base/unique_fd.h"
#include "coordinator/frame_stream.h"
#include "coordinator/tcp_gate.h"
#include "wire/messages.h"

namespace tide::coordinator {

/// A connected socket; an invalid one when nobody listens at `address` (tcp://IPV4:PORT).
inline UniqueFd ConnectTcp(const std::string& address) {
  const auto parsed = ParseTcpAddress(address);
  sockaddr_in target{};
  int port = 0;
  if (!parsed.ok() || !absl::SimpleAtoi(parsed->port, &port)) return UniqueFd();
  target.sin_family = AF_INET;
  target.sin_port = htons(static_cast<uint16_t>(port));
  inet_pton(AF_INET, parsed->host.c_str(), &target.sin_addr);
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int one = 1;
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&target), sizeof target) != 0)
    return UniqueFd();
  return fd;
}

class TcpPeer {
 public:
  explicit TcpPeer(const std::string& address, std::string secret,
                   std::shared_ptr<const TlsContext> tls = nullptr)
      : fd_(ConnectTcp(address)),
        stream_(SecureStream(
            {.side = LinkSide::kNode, .secret = std::move(secret), .tls = std::move(tls)})) {
    status_ = fd_ ? stream_->Begin(out_) : absl::UnavailableError("nobody listens");
    Flush();
  }

  /// Reads until the other side has proven itself. Errors: why it did not.
  absl::Status Prove(absl::Duration patience) {
    const absl::Time deadline = absl::Now() + patience;
    while (status_.ok() && !stream_->open()) {
      if (absl::Now() > deadline) return absl::DeadlineExceededError("not proven");
      ReadSome(absl::Seconds(1));
    }
    return status_;
  }
  void Say(wire::Message message, uint64_t request_id = 0) {
    const auto frame = wire::EncodeMessage(std::move(message), request_id);
    if (status_.ok()) status_ = frame.ok() ? stream_->Encode(*frame, out_) : frame.status();
    Flush();
  }
  /// Queues without writing, for many at once.
  void Queue(const wire::Frame& frame) { status_.Update(stream_->Encode(frame, out_)); }
  /// Writes what the socket takes without waiting; true when nothing is left.
  bool TryFlush() {
    while (!out_.empty()) {
      const ssize_t put = send(fd_.get(), out_.data(), out_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (put <= 0) return false;
      out_.erase(0, static_cast<size_t>(put));
    }
    return true;
  }
  /// The next message, waiting for it; an error when the link ended or nothing came.
  absl::StatusOr<wire::Message> Next(absl::Duration patience) {
    const absl::Time deadline = absl::Now() + patience;
    while (true) {
      auto frame = stream_->Next();
      if (!frame.ok()) return frame.status();
      if (*frame) {
        request_id_ = (*frame)->request_id;
        return wire::DecodeMessage(**frame);
      }
      if (!status_.ok()) return status_;
      if (absl::Now() > deadline) return absl::DeadlineExceededError("nothing came");
      ReadSome(absl::Seconds(1));
    }
  }
  /// The next message that is here already; nothing when there is none or the link ended.
  std::optional<wire::Message> Poll() {
    for (const bool read_before : {false, true}) {
      const auto frame = stream_->Next();
      if (!frame.ok()) status_.Update(frame.status());
      if (frame.ok() && *frame) {
        request_id_ = (*frame)->request_id;
        auto message = wire::DecodeMessage(**frame);
        if (message.ok()) return *std::move(message);
        status_.Update(message.status());
      }
      if (!read_before && status_.ok()) ReadSome(absl::ZeroDuration());
    }
    return std::nullopt;
  }
  template <typename M>
  std::optional<M> Take(absl::Duration patience) {
    while (true) {
      const auto message = Next(patience);
      if (!message.ok()) return std::nullopt;
      if (const M* wanted = std::get_if<M>(&*message)) return *wanted;
    }
  }
  uint64_t request_id() const { return request_id_; }  // of the last message
  int fd() const { return fd_.get(); }
  const absl::Status& status() const { return status_; }
  /// Bytes as they went out and came in, for who replays them.
  const std::string& sent() const { return sent_; }

 private:
  void ReadSome(absl::Duration wait) {
    pollfd entry{fd_.get(), POLLIN, 0};
    if (poll(&entry, 1, static_cast<int>(absl::ToInt64Milliseconds(wait))) <= 0) return;
    char bytes[65536];
    const ssize_t got = recv(fd_.get(), bytes, sizeof bytes, 0);
    if (got <= 0) {
      status_ = absl::UnavailableError("the link ended");
      return;
    }
    status_ = stream_->Feed(absl::string_view(bytes, static_cast<size_t>(got)), out_);
    Flush();
  }
  void Flush() {
    while (!out_.empty() && fd_) {
      const ssize_t put = send(fd_.get(), out_.data(), out_.size(), MSG_NOSIGNAL);
      if (put <= 0) break;
      sent_.append(out_, 0, static_cast<size_t>(put));
      out_.erase(0, static_cast<size_t>(put));
    }
  }

  UniqueFd fd_;
  std::unique_ptr<FrameStream> stream_;
  std::string out_, sent_;
  absl::Status status_;
  uint64_t request_id_ = 0;
};

}  // namespace tide::coordinator

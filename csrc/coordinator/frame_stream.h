// Between the bytes of a socket and frames: plain on a Unix socket, proven and sealed over TCP.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "coordinator/link_secret.h"
#include "coordinator/tls_session.h"
#include "wire/frame.h"

namespace tide::coordinator {

/// No I/O: the owner carries bytes. Not thread-safe. Every error is final.
class FrameStream {
 public:
  virtual ~FrameStream() = default;
  /// What the stream has to say before anything came, such as a challenge.
  virtual absl::Status Begin(std::string& /*out*/) { return absl::OkStatus(); }
  /// Takes bytes of the peer; appends what the stream itself answers to `out`.
  virtual absl::Status Feed(absl::string_view bytes, std::string& out) = 0;
  /// The next frame for the owner, or nothing.
  virtual absl::StatusOr<std::optional<wire::Frame>> Next() = 0;
  /// Appends a frame as bytes. Before the peer has proven itself only a refusal may be sent.
  virtual absl::Status Encode(const wire::Frame& frame, std::string& out) = 0;
  /// Whether frames may flow.
  virtual bool open() const = 0;
};

std::unique_ptr<FrameStream> PlainStream();

struct SecureOptions {
  LinkSide side = LinkSide::kCoordinator;
  std::string secret;
  std::shared_ptr<const TlsContext> tls;  // shared by all connections; nullptr: none, on loopback
};

/// The coordinator challenges, the node proves, the coordinator proves back; then every frame is
/// sealed. Before that nothing but Challenge, Proof and a refusal of at most 1 KiB is read.
std::unique_ptr<FrameStream> SecureStream(SecureOptions options);

}  // namespace tide::coordinator

// The channel of real use: frames over a connected Unix stream socket, never blocking.
#pragma once

#include <memory>
#include <string>

#include "base/unique_fd.h"
#include "wire/channel.h"

namespace tide::wire {

struct UnixChannelLimits {
  size_t queued_bytes_max = 16 << 20;
  Snapshots snapshots = Snapshots::kAccept;
};

class UnixChannel final : public Channel {
 public:
  /// Takes a connected stream socket and makes it non-blocking and close-on-exec.
  explicit UnixChannel(UniqueFd socket, UnixChannelLimits limits = {});

  absl::Status Send(const Frame& frame) override;
  absl::StatusOr<std::optional<Frame>> Receive() override;
  void Wait(absl::Duration timeout) override;
  void Close() override { socket_.reset(); }

  /// Waits as Wait does, and until `wake_fd` is readable when it is not negative.
  void WaitOr(int wake_fd, absl::Duration timeout);
  /// Writes queued bytes as far as the socket takes them. Errors: Unavailable.
  absl::Status Flush();
  size_t queued_bytes() const { return out_.size() - out_start_; }
  int fd() const { return socket_.get(); }

 private:
  absl::Status ReadSome();
  /// Leaves the number of the socket to whoever has closed it and may have it now.
  absl::Status CheckOwn();

  const UnixChannelLimits limits_;
  UniqueFd socket_;
  const FileIdentity file_;  // of socket_
  FrameDecoder decoder_;
  std::string out_;
  size_t out_start_ = 0;  // bytes of out_ already written
  absl::Status ended_;    // why nothing more will arrive
};

/// Connects to the socket at `path`; paths longer than a socket address are reached through their
/// folder. Errors: Unavailable when nobody listens there, PermissionDenied.
absl::StatusOr<UniqueFd> ConnectUnix(const std::string& path);

/// Binds and listens at `path` with mode 0600, replacing a stale socket. The caller holds the lock
/// that makes it the only daemon. Errors: as of bind.
absl::StatusOr<UniqueFd> ListenUnix(const std::string& path);

}  // namespace tide::wire

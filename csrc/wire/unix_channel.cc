// Non-blocking reads and writes of a Unix socket, connecting and listening.
#include "wire/unix_channel.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace tide::wire {
namespace {

constexpr size_t kReadBytes = 64 << 10;
constexpr int kBacklog = 512;

/// A socket address for `path`; a long path goes through a descriptor of its folder, kept open in
/// `folder`.
absl::StatusOr<sockaddr_un> AddressOf(const std::string& path, UniqueFd& folder) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::string text = path;
  if (text.size() >= sizeof address.sun_path) {
    const size_t slash = path.rfind('/');
    const std::string parent = slash == std::string::npos ? "." : path.substr(0, slash);
    folder.reset(open(parent.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!folder) return ErrnoStatus(absl::StrCat("cannot open ", parent));
    text = absl::StrCat("/proc/self/fd/", folder.get(), "/", path.substr(slash + 1));
    if (text.size() >= sizeof address.sun_path) {
      return absl::InvalidArgumentError(absl::StrCat("socket name too long: ", path));
    }
  }
  text.copy(address.sun_path, text.size());
  return address;
}

absl::Status Cut(absl::string_view why) { return absl::UnavailableError(why); }

}  // namespace

UnixChannel::UnixChannel(UniqueFd socket, UnixChannelLimits limits)
    : limits_(limits),
      socket_(std::move(socket)),
      file_(socket_.get()),
      decoder_(limits.snapshots) {
  fcntl(socket_.get(), F_SETFL, fcntl(socket_.get(), F_GETFL) | O_NONBLOCK);
  fcntl(socket_.get(), F_SETFD, FD_CLOEXEC);
}

absl::Status UnixChannel::Send(const Frame& frame) {
  if (!socket_) return Cut("the channel is closed");
  TIDE_ASSIGN_OR_RETURN(std::string bytes, EncodeFrame(frame));
  if (queued_bytes() + bytes.size() > limits_.queued_bytes_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat(queued_bytes(), " bytes wait for a peer that reads too slowly; the bound is ",
                     limits_.queued_bytes_max));
  }
  out_ += bytes;
  return Flush();
}

absl::Status UnixChannel::CheckOwn() {
  if (!socket_) return Cut("the channel is closed");
  if (file_.IsAt(socket_.get())) return absl::OkStatus();
  socket_.release();
  return Cut("the program has closed the socket");
}

absl::Status UnixChannel::Flush() {
  TIDE_RETURN_IF_ERROR(CheckOwn());
  while (queued_bytes() > 0) {
    const ssize_t sent =
        send(socket_.get(), out_.data() + out_start_, queued_bytes(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return absl::OkStatus();
      return Cut(absl::StrCat("the peer is gone: ", strerror(errno)));
    }
    out_start_ += static_cast<size_t>(sent);
    if (out_start_ >= out_.size() / 2) {
      out_.erase(0, out_start_);
      out_start_ = 0;
    }
  }
  return absl::OkStatus();
}

absl::Status UnixChannel::ReadSome() {
  TIDE_RETURN_IF_ERROR(CheckOwn());
  char bytes[kReadBytes];
  const ssize_t got = recv(socket_.get(), bytes, sizeof bytes, MSG_DONTWAIT);
  if (got > 0) {
    decoder_.Feed(absl::string_view(bytes, static_cast<size_t>(got)));
    return absl::OkStatus();
  }
  if (got == 0) {
    const absl::Status end = decoder_.AtEnd();
    ended_ = end.ok() ? Cut("the peer closed the connection") : end;
  } else if (errno == ECONNRESET) {
    ended_ = Cut("the peer reset the connection");
  } else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
    ended_ = Cut(absl::StrCat("cannot read: ", strerror(errno)));
  }
  return ended_;
}

absl::StatusOr<std::optional<Frame>> UnixChannel::Receive() {
  if (!socket_) return Cut("the channel is closed");
  TIDE_ASSIGN_OR_RETURN(auto frame, decoder_.Next());
  if (frame) return frame;
  if (!ended_.ok()) return ended_;
  const absl::Status read = ReadSome();
  TIDE_ASSIGN_OR_RETURN(frame, decoder_.Next());
  if (frame) return frame;
  if (!read.ok()) return read;
  return frame;
}

void UnixChannel::Wait(absl::Duration timeout) { WaitOr(-1, timeout); }

void UnixChannel::WaitOr(int wake_fd, absl::Duration timeout) {
  const short events = static_cast<short>(POLLIN | (queued_bytes() > 0 ? POLLOUT : 0));
  pollfd entries[2] = {{socket_.get(), events, 0}, {wake_fd, POLLIN, 0}};
  const int64_t wait_ms = std::clamp<int64_t>(
      absl::ToInt64Milliseconds(absl::Ceil(timeout, absl::Milliseconds(1))), 0, 3'600'000);
  poll(entries, 2, static_cast<int>(wait_ms));
  if ((entries[0].revents & POLLOUT) != 0)
    Flush().IgnoreError();  // the next Receive or Send reports a cut
}

absl::StatusOr<UniqueFd> ConnectUnix(const std::string& path) {
  UniqueFd folder;
  TIDE_ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path, folder));
  UniqueFd socket_fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket_fd) return ErrnoStatus("socket");
  if (connect(socket_fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
    return socket_fd;
  }
  if (errno == EACCES || errno == EPERM)
    return ErrnoStatus(absl::StrCat("not allowed to talk to ", path));
  return absl::UnavailableError(
      absl::StrCat("no tided answers at ", path, " (", strerror(errno), ")"));
}

absl::StatusOr<UniqueFd> ListenUnix(const std::string& path) {
  UniqueFd folder;
  TIDE_ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path, folder));
  UniqueFd socket_fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket_fd) return ErrnoStatus("socket");
  if (unlink(path.c_str()) != 0 && errno != ENOENT) {
    return ErrnoStatus(absl::StrCat("cannot replace the stale socket ", path));
  }
  // Before bind the mode of the descriptor becomes the mode of the file: never open to others, not
  // for an instant.
  fchmod(socket_fd.get(), 0600);
  if (bind(socket_fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return ErrnoStatus(absl::StrCat("cannot bind ", path));
  }
  if (listen(socket_fd.get(), kBacklog) != 0)
    return ErrnoStatus(absl::StrCat("cannot listen at ", path));
  return socket_fd;
}

}  // namespace tide::wire

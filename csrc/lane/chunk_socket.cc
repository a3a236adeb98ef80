#include "lane/chunk_socket.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "shm/runtime_dir.h"

namespace tide::lane {
namespace {

constexpr uint32_t kMagic = 0x4b484354;  // "TCHK"
constexpr int kBacklog = 64;
constexpr absl::Duration kClientPatience = absl::Milliseconds(200);
constexpr absl::string_view kPrefix = "chunks-";

struct WireRequest {  // of one packet; both ends are of one version, as the device table is
  uint32_t magic = kMagic;
  int32_t lane = 0;
  int64_t size_bytes = 0;
  int32_t index = 0;
  char table[60] = {};
};

enum class Answer : uint32_t { kGiven = 1, kHasNone = 2, kNotNow = 3 };

std::string SocketName(pid_t pid) { return absl::StrCat(kPrefix, pid); }

/// Through a descriptor of the folder: socket addresses are short, folders may not be.
sockaddr_un AddressIn(int folder, const std::string& name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  absl::StrCat("/proc/self/fd/", folder, "/", name)
      .copy(address.sun_path, sizeof address.sun_path - 1);
  return address;
}

bool SameUser(int socket) {
  ucred peer{};
  socklen_t length = sizeof peer;
  return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && peer.uid == geteuid();
}

/// False when the time is over.
bool WaitReadable(int socket, absl::Time deadline) {
  for (;;) {
    const absl::Duration left = std::max(deadline - absl::Now(), absl::ZeroDuration());
    pollfd entry{socket, POLLIN, 0};
    const int ready = poll(&entry, 1, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
    if (absl::Now() >= deadline) return false;
  }
}

bool SendAnswer(int socket, Answer answer, int fd) {
  iovec data{&answer, sizeof answer};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  return sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof answer;
}

/// The answer to a request, with the descriptor that came with it.
absl::StatusOr<UniqueFd> ReceiveAnswer(int socket) {
  Answer answer{};
  iovec data{&answer, sizeof answer};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  UniqueFd fd;
  const cmsghdr* header = got >= 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (header != nullptr && header->cmsg_type == SCM_RIGHTS) {
    int received = -1;
    std::memcpy(&received, CMSG_DATA(header), sizeof received);
    fd.reset(received);
  }
  if (got != sizeof answer) return absl::NotFoundError("the member has ended");
  if (answer == Answer::kGiven && fd) return fd;
  if (answer == Answer::kHasNone) return absl::NotFoundError("the member has no such chunk");
  return absl::UnavailableError("the member does not give its chunk now");
}

void RemoveSocketsOfTheDead(int folder) {
  const int copy = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* listing = copy >= 0 ? fdopendir(copy) : nullptr;
  if (listing == nullptr) {
    if (copy >= 0) close(copy);
    return;
  }
  while (const dirent* entry = readdir(listing)) {
    const absl::string_view name = entry->d_name;
    pid_t pid = 0;
    if (name.substr(0, kPrefix.size()) != kPrefix ||
        !absl::SimpleAtoi(name.substr(kPrefix.size()), &pid) || kill(pid, 0) == 0 ||
        errno != ESRCH) {
      continue;
    }
    unlinkat(folder, entry->d_name, 0);
  }
  closedir(listing);
}

}  // namespace

struct ChunkServer::Impl {
  void Run();
  void Serve(int client);

  pid_t pid = getpid();
  Provide provide;
  UniqueFd folder, listening, stop;
  std::thread thread;
};

ChunkServer::ChunkServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<ChunkServer>> ChunkServer::Start(const std::string& runtime_dir,
                                                                Provide provide) {
  auto impl = std::make_unique<Impl>();
  impl->provide = std::move(provide);
  TIDE_ASSIGN_OR_RETURN(impl->folder, shm::OpenRuntimeDir(runtime_dir));
  RemoveSocketsOfTheDead(impl->folder.get());
  impl->listening.reset(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  impl->stop.reset(eventfd(0, EFD_CLOEXEC));
  if (!impl->listening || !impl->stop) return ErrnoStatus("cannot make the socket of chunks");
  const std::string name = SocketName(getpid());
  unlinkat(impl->folder.get(), name.c_str(), 0);  // of a process that had this number
  const sockaddr_un address = AddressIn(impl->folder.get(), name);
  // The folder is of mode 0700, so nobody comes before the mode is set.
  if (bind(impl->listening.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) !=
          0 ||
      fchmodat(impl->folder.get(), name.c_str(), 0600, 0) != 0 ||
      listen(impl->listening.get(), kBacklog) != 0) {
    return ErrnoStatus(absl::StrCat("cannot listen on ", runtime_dir, "/", name));
  }
  Impl* const raw = impl.get();
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // the user's signals belong to the user's threads
  impl->thread = std::thread([raw] { raw->Run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return std::unique_ptr<ChunkServer>(new ChunkServer(std::move(impl)));
}

ChunkServer::~ChunkServer() {
  if (impl_ == nullptr || impl_->pid != getpid()) return;
  const uint64_t one = 1;
  if (write(impl_->stop.get(), &one, sizeof one) == sizeof one) {
    impl_->thread.join();
  } else {
    impl_->thread.detach();
    static_cast<void>(impl_.release());
    return;
  }
  unlinkat(impl_->folder.get(), SocketName(impl_->pid).c_str(), 0);
}

void ChunkServer::AbandonAfterFork() {
  if (impl_ == nullptr) return;
  impl_->listening.reset();
  impl_->stop.reset();
  impl_->folder.reset();
}

void ChunkServer::Impl::Run() {
  for (;;) {
    pollfd entries[2] = {{listening.get(), POLLIN, 0}, {stop.get(), POLLIN, 0}};
    if (poll(entries, 2, -1) < 0 && errno != EINTR) return;
    if (entries[1].revents != 0) return;
    if (entries[0].revents == 0) continue;
    const UniqueFd client(accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (client && SameUser(client.get())) Serve(client.get());
  }
}

void ChunkServer::Impl::Serve(int client) {
  if (!WaitReadable(client, absl::Now() + kClientPatience)) return;
  WireRequest wire;
  if (recv(client, &wire, sizeof wire, MSG_DONTWAIT) != sizeof wire || wire.magic != kMagic) return;
  ChunkRequest request;
  request.table.assign(wire.table, strnlen(wire.table, sizeof wire.table));
  request.lane = LaneId(wire.lane);
  request.size = Bytes(wire.size_bytes);
  request.index = wire.index;
  const absl::StatusOr<UniqueFd> fd = provide(request);
  const Answer refusal = absl::IsNotFound(fd.status()) ? Answer::kHasNone : Answer::kNotNow;
  SendAnswer(client, fd.ok() ? Answer::kGiven : refusal, fd.ok() ? fd->get() : -1);
  if (fd.ok()) return;
  Log(LogLevel::kInfo, absl::StrCat("event=chunk_refused index=", request.index, " status=\"",
                                    fd.status().ToString(), "\""));
}

absl::StatusOr<UniqueFd> RequestChunk(const std::string& runtime_dir, pid_t pid,
                                      const ChunkRequest& request, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  TIDE_ASSIGN_OR_RETURN(const UniqueFd folder, shm::OpenRuntimeDir(runtime_dir));
  const UniqueFd server(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!server) return ErrnoStatus("cannot make a socket");
  const sockaddr_un address = AddressIn(folder.get(), SocketName(pid));
  if (connect(server.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    if (errno == ENOENT || errno == ECONNREFUSED)
      return absl::NotFoundError(absl::StrCat("process ", pid, " serves no chunks"));
    return absl::UnavailableError(absl::StrCat("process ", pid, " has too many askers"));
  }
  if (!SameUser(server.get()))
    return absl::PermissionDeniedError(absl::StrCat("process ", pid, " is of another user"));
  WireRequest wire;
  wire.lane = request.lane.value();
  wire.size_bytes = request.size.value();
  wire.index = request.index;
  if (request.table.size() >= sizeof wire.table)
    return absl::InvalidArgumentError(absl::StrCat("name too long: ", request.table));
  request.table.copy(wire.table, sizeof wire.table - 1);
  if (send(server.get(), &wire, sizeof wire, MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof wire)
    return absl::NotFoundError("the member has ended");
  if (!WaitReadable(server.get(), deadline)) {
    return absl::DeadlineExceededError(
        absl::StrCat("process ", pid, " has not answered within ", absl::FormatDuration(timeout)));
  }
  return ReceiveAnswer(server.get());
}

}  // namespace tide::lane

// The daemon's event loop.
#include "coordinator/server.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <future>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "coordinator/core.h"
#include "coordinator/decision_log.h"
#include "coordinator/device_bridge.h"
#include "coordinator/history_file.h"
#include "coordinator/http_server.h"
#include "coordinator/peer_connection.h"
#include "coordinator/process_exit.h"
#include "shm/process.h"
#include "wire/unix_channel.h"

namespace tide::coordinator {
namespace {

constexpr auto kTickBusy = std::chrono::milliseconds(100);
constexpr auto kTickQuiet = std::chrono::seconds(1);
constexpr int64_t kHelloNs = 5'000'000'000;
constexpr int64_t kReapNs = 1'000'000'000;
constexpr size_t kRemotePeersMax = 16'384;
constexpr size_t kUnprovenMax = 1024;
// Journal, sockets, tables of devices, the log, connections of the HTTP server.
constexpr size_t kOwnDescriptors = 96;
// A node speaks for all jobs of its machine.
constexpr PeerLimits kRemoteLimits = {
    .queued_bytes_max = 16 << 20, .frames_per_s = 50'000, .frames_burst = 100'000};
constexpr auto kHttpPatience = std::chrono::seconds(2);
constexpr auto kAcceptRetry = std::chrono::milliseconds(100);

size_t DescriptorsMax() {
  rlimit limit{};
  const bool known = getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
  return known ? limit.rlim_cur : size_t{1} << 20;
}

class Server final : public Edges, public PeerHandler, public NodeLinkHandler {
 public:
  Server(const ServerOptions& options, Journal& journal, Clock& clock)
      : options_(options),
        clock_(clock),
        device_(options.runtime_dir),
        core_(Core::Parts{journal, *this, device_, clock},
              options.gate.listen.empty() ? std::nullopt : std::optional(options.cluster),
              options.link.join.empty() ? std::nullopt : std::optional(options.node)),
        log_(options.decision_log),
        history_(absl::StrCat(options.runtime_dir, "/history")),
        gate_(io_, options.gate,
              [this](PeerConnection::Socket socket, std::string from,
                     std::unique_ptr<FrameStream> stream) {
                AdmitRemote(std::move(socket), std::move(from), std::move(stream));
              }),
        link_(io_, options.link, *this),
        acceptor_(io_),
        tick_(io_),
        retry_(io_),
        signals_(io_, SIGTERM, SIGINT) {}

  absl::Status Run(UniqueFd listener, const std::function<void()>& ready);

  // Edges
  void SendTo(PeerId peer, const wire::Frame& frame) override {
    if (auto it = peers_.find(peer); it != peers_.end()) it->second->Send(frame);
  }
  void ClosePeer(PeerId peer, const std::string& reason) override {
    if (auto it = peers_.find(peer); it != peers_.end()) it->second->CloseSoon(reason);
  }
  void Watch(const WatchProcess& process) override;
  void Unwatch(JobId job) override { watches_.erase(job); }
  void WriteLanePolicy(int lane, sched::TurnPolicyId policy) override {
    device_.WriteLanePolicy(lane, policy);
  }
  void ReapDeadSlots() override { device_.ReapDead(); }
  void StopDaemon(const std::string& reason) override;
  int64_t AppendDecisionLog(const std::string& lines) override { return log_.Append(lines); }
  void CutDecisionLog(int64_t bytes) override { log_.Cut(bytes); }
  void SendUp(const wire::Frame& frame) override { link_.Send(frame); }
  std::string ReadHistory() override { return history_.Read(); }
  bool Alive(int64_t pid, int64_t start_time) override {
    return shm::ProcessAlive(static_cast<pid_t>(pid), static_cast<uint64_t>(start_time));
  }

  // NodeLinkHandler
  void OnLinkOpen() override {
    core_.UplinkOpen();
    FlushSoon();
  }
  void OnLinkFrame(const wire::Frame& frame) override {
    core_.UplinkFrame(frame);
    FlushSoon();
  }
  void OnLinkLost(const std::string& why) override {
    core_.UplinkLost(why);
    FlushSoon();
  }

  // PeerHandler
  void OnOpen(PeerId peer) override {
    proven_.insert(peer);
    --unproven_;
    core_.Connected(peer, 0, /*remote=*/true);
  }
  void OnFrame(PeerId peer, const wire::Frame& frame) override {
    core_.Received(peer, frame);
    FlushSoon();
  }
  void OnBroken(PeerId peer, const absl::Status& why) override {
    core_.Broken(peer, why);
    FlushSoon();
  }
  void OnGone(PeerId peer, const std::string& why) override {
    Log(LogLevel::kDebug,
        absl::StrCat("event=peer_gone peer=", peer.value(), " reason=\"", why, "\""));
    Forget(peer);
    core_.Closed(peer);
    FlushSoon();
  }

 private:
  struct ProcessWatch {
    ProcessWatch(asio::io_context& io, int fd) : descriptor(io, fd) {}
    asio::posix::stream_descriptor descriptor;
  };

  void Accept();
  void Admit(asio::local::stream_protocol::socket socket);
  void AdmitRemote(PeerConnection::Socket socket, std::string from,
                   std::unique_ptr<FrameStream> stream);
  absl::Status OpenCluster();
  absl::Status OpenHttp();
  std::optional<HttpBody> AskFromThread(const HttpQuestion& question);
  void CutSilentPeers(int64_t now_ns);
  /// Whether a connection and the pidfd of its job still fit the limit of open files.
  bool HasDescriptors() const {
    return peers_.size() + watches_.size() + kOwnDescriptors + 2 <= descriptors_max_;
  }
  void Refuse(asio::local::stream_protocol::socket& socket, wire::AnswerError error);
  void WaitForEnd(JobId job, const WatchProcess& process);
  void Forget(PeerId peer);
  void TickLater();
  void OnTick();
  void FlushSoon();

  const ServerOptions options_;
  const size_t descriptors_max_ = DescriptorsMax();
  Clock& clock_;
  asio::io_context io_{1};
  DeviceBridge device_;
  Core core_;
  DecisionLog log_;
  HistoryFile history_;
  TcpGate gate_;
  NodeLinkClient link_;
  asio::local::stream_protocol::acceptor acceptor_;
  asio::steady_timer tick_, retry_;
  asio::signal_set signals_;
  std::map<PeerId, std::shared_ptr<PeerConnection>> peers_;
  std::map<JobId, std::unique_ptr<ProcessWatch>> watches_;
  std::set<PeerId> remote_, proven_;
  int64_t next_peer_ = 1;
  size_t remote_peers_ = 0, unproven_ = 0;
  int64_t busy_ns_ = 0;  // when there last was a job or a client
  int64_t reaped_ns_ = 0;
  bool flush_posted_ = false;
  bool tick_busy_ = false;
  absl::Status failed_;
  HttpServer http_;  // its threads end before anything that they ask
};

absl::Status Server::Run(UniqueFd listener, const std::function<void()>& ready) {
  acceptor_.assign(asio::local::stream_protocol(), listener.release());
  busy_ns_ = clock_.MonotonicNanos();
  TIDE_RETURN_IF_ERROR(core_.Start(getpid()));
  signals_.async_wait([this](const asio::error_code& error, int signal) {
    if (!error) StopDaemon(absl::StrCat("signal ", signal));
  });
  TIDE_RETURN_IF_ERROR(OpenCluster());
  TIDE_RETURN_IF_ERROR(OpenHttp());
  Accept();
  TickLater();
  ready();
  io_.run();
  http_.Stop();
  const absl::Status flushed = core_.Flush();
  history_.Keep(core_.state().history, clock_.MonotonicNanos(), /*now=*/true);
  return failed_.ok() ? flushed : failed_;
}

void Server::StopDaemon(const std::string& reason) {
  Log(LogLevel::kInfo, absl::StrCat("event=daemon_stops reason=\"", reason, "\""));
  asio::error_code ignored;
  acceptor_.close(ignored);
  gate_.Close();
  link_.Close();
  // What was answered in this batch is in the sockets already; posted, so that the batch is
  // finished first.
  asio::post(io_, [this] { io_.stop(); });
}

void Server::FlushSoon() {
  if (flush_posted_ || !core_.has_effects()) return;
  flush_posted_ = true;
  asio::post(io_, [this] {  // after what is ready now: one commit for all of it
    flush_posted_ = false;
    absl::Status flushed = core_.Flush();
    if (TickIsDue(core_.state()) && !tick_busy_) TickLater();  // a deadline is running now
    if (flushed.ok()) return;
    failed_ = std::move(flushed);
    StopDaemon(std::string(failed_.message()));
  });
}

void Server::Accept() {
  acceptor_.async_accept(
      [this](const asio::error_code& error, asio::local::stream_protocol::socket socket) {
        if (error == asio::error::operation_aborted || !acceptor_.is_open()) return;
        if (!error) {
          Admit(std::move(socket));
          return Accept();
        }
        retry_.expires_after(kAcceptRetry);  // out of descriptors: some may be free soon
        retry_.async_wait([this](const asio::error_code& cancelled) {
          if (!cancelled) Accept();
        });
      });
}

void Server::Refuse(asio::local::stream_protocol::socket& socket, wire::AnswerError error) {
  auto frame = wire::EncodeMessage(wire::Answer{.ok = false, .error = std::move(error)});
  if (!frame.ok()) return;
  const auto bytes = wire::EncodeFrame(*frame);
  if (bytes.ok())
    send(socket.native_handle(), bytes->data(), bytes->size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

void Server::Admit(asio::local::stream_protocol::socket socket) {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  const bool known =
      getsockopt(socket.native_handle(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0;
  if (!known || (credentials.uid != geteuid() && credentials.uid != 0)) {
    return Refuse(socket, {"not_permitted",
                           absl::StrCat("user ", credentials.uid,
                                        " may not use the daemon of user ", geteuid()),
                           "each user has a daemon of their own"});
  }
  if (peers_.size() - remote_peers_ >= options_.peers_max) {
    return Refuse(socket,
                  {"too_many", absl::StrCat(options_.peers_max, " connections are open already"),
                   "try again when some have ended"});
  }
  if (!HasDescriptors()) {
    return Refuse(socket, {"too_many",
                           absl::StrCat(peers_.size(), " connections are open already, as many as ",
                                        descriptors_max_, " open files allow"),
                           "try again when some have ended, or start tided under a higher limit "
                           "(ulimit -n)"});
  }
  const PeerId id(next_peer_++);
  busy_ns_ = clock_.MonotonicNanos();
  core_.Connected(id, credentials.pid);
  auto peer = std::make_shared<PeerConnection>(
      std::move(socket), PeerConnection::Identity{id, clock_.MonotonicNanos(), "unix"},
      PeerLimits{}, PlainStream(), *this);
  peers_[id] = peer;
  peer->Start();
}

// Unproven connections are few, and a full house is told nothing: whoever floods gets no answer.
void Server::AdmitRemote(PeerConnection::Socket socket, std::string from,
                         std::unique_ptr<FrameStream> stream) {
  if (remote_peers_ >= kRemotePeersMax || unproven_ >= kUnprovenMax || !HasDescriptors()) {
    Log(LogLevel::kDebug, absl::StrCat("event=connection_refused from=", from,
                                       " unproven=", unproven_, " peers=", remote_peers_));
    return;
  }
  const PeerId id(next_peer_++);
  busy_ns_ = clock_.MonotonicNanos();
  auto peer = std::make_shared<PeerConnection>(
      std::move(socket), PeerConnection::Identity{id, clock_.MonotonicNanos(), std::move(from)},
      kRemoteLimits, std::move(stream), *this);
  peers_[id] = peer;
  remote_.insert(id);
  ++remote_peers_;
  ++unproven_;
  peer->Start();
}

/// The address goes to RUNTIME_DIR/cluster, for who asked for any port.
absl::Status Server::OpenCluster() {
  if (!options_.link.join.empty()) TIDE_RETURN_IF_ERROR(link_.Open());
  if (options_.gate.listen.empty()) return absl::OkStatus();
  TIDE_RETURN_IF_ERROR(gate_.Open());
  Log(LogLevel::kInfo, absl::StrCat("event=cluster_served address=", gate_.address()));
  return WriteSmallFile(options_.runtime_dir + "/cluster", gate_.address() + "\n");
}

absl::Status Server::OpenHttp() {
  if (options_.http_listen.empty()) return absl::OkStatus();
  TIDE_RETURN_IF_ERROR(
      http_.Start({.listen = options_.http_listen, .token_file = options_.http_token_file},
                  [this](const HttpQuestion& question) { return AskFromThread(question); }));
  Log(LogLevel::kInfo, absl::StrCat("event=http_served address=", http_.address()));
  return WriteSmallFile(options_.runtime_dir + "/http", http_.address() + "\n");
}

/// Called on a thread of the HTTP server; the answer is made on the daemon's.
std::optional<HttpBody> Server::AskFromThread(const HttpQuestion& question) {
  // Shared: whichever of the two threads is later ends it.
  auto promise = std::make_shared<std::promise<std::optional<HttpBody>>>();
  std::future<std::optional<HttpBody>> answer = promise->get_future();
  asio::post(io_, [this, promise, question] { promise->set_value(core_.Http(question)); });
  if (answer.wait_for(kHttpPatience) == std::future_status::ready) return answer.get();
  return HttpBody{"text/plain", "the daemon is busy or ends\n"};
}

void Server::Watch(const WatchProcess& process) {
  auto opened =
      shm::PidFd::Open(static_cast<pid_t>(process.pid), static_cast<uint64_t>(process.start_time));
  if (!opened.ok()) {
    // Ended already, or no pidfd to be had: the next tick finds out which.
    Log(LogLevel::kWarning, absl::StrCat("event=watch_failed pid=", process.pid, " reason=\"",
                                         opened.status().message(), "\""));
    return;
  }
  watches_[process.job] =
      std::make_unique<ProcessWatch>(io_, fcntl(opened->fd(), F_DUPFD_CLOEXEC, 3));
  WaitForEnd(process.job, process);
}

void Server::WaitForEnd(JobId job, const WatchProcess& process) {
  watches_[job]->descriptor.async_wait(asio::posix::stream_descriptor::wait_read,
                                       [this, job, process](const asio::error_code& error) {
                                         if (error) return;  // unwatched
                                         core_.ProcessEnded(
                                             job, ReadExitStatus(process.pid, process.start_time));
                                         watches_.erase(job);
                                         FlushSoon();
                                       });
}

void Server::Forget(PeerId peer) {
  peers_.erase(peer);
  if (remote_.erase(peer) == 0) return;
  --remote_peers_;
  if (proven_.erase(peer) == 0) --unproven_;
}

void Server::TickLater() {
  tick_busy_ = TickIsDue(core_.state());
  tick_.expires_after(tick_busy_ ? std::chrono::steady_clock::duration(kTickBusy) : kTickQuiet);
  tick_.async_wait([this](const asio::error_code& error) {
    if (!error) OnTick();
  });
}

void Server::CutSilentPeers(int64_t now_ns) {
  for (const auto& [id, peer] : peers_) {
    const auto known = core_.state().peers.find(id);
    const bool silent =
        known == core_.state().peers.end() ? !peer->open() : !known->second.said_hello;
    if (silent && now_ns - peer->connected_ns() > kHelloNs) peer->Cut("it did not say Hello");
  }
}

void Server::OnTick() {
  const int64_t now_ns = clock_.MonotonicNanos();
  core_.RunTick();
  for (const auto& [id, job] : core_.state().jobs) {
    if (job.live() && !watches_.contains(id) && !Alive(job.pid, job.start_time)) {
      core_.ProcessEnded(id, ReadExitStatus(job.pid, job.start_time));
      break;  // the map changes; the others at the next tick
    }
  }
  CutSilentPeers(now_ns);
  history_.Keep(core_.state().history, now_ns);
  if (UplinkSilent(core_.state().uplink, now_ns)) link_.Restart("it is silent");
  if (now_ns - reaped_ns_ >= kReapNs) {
    reaped_ns_ = now_ns;
    device_.ReapDead();  // processes that never registered
  }
  FlushSoon();
  if (!peers_.empty() || core_.state().live_jobs() > 0) busy_ns_ = now_ns;
  const absl::Duration idle = absl::Nanoseconds(now_ns - busy_ns_);
  const bool alone = options_.gate.listen.empty() && options_.link.join.empty();
  if (alone && options_.idle_exit > absl::ZeroDuration() && idle >= options_.idle_exit)
    return StopDaemon("idle");
  TickLater();
}

}  // namespace

absl::Status Serve(const ServerOptions& options, Clock& clock, const std::function<void()>& ready) {
  TIDE_ASSIGN_OR_RETURN(auto journal,
                        OpenSqliteJournal(absl::StrCat(options.runtime_dir, "/tided.db"),
                                          {.events_kept = options.journal_events}));
  const std::string socket_path = absl::StrCat(options.runtime_dir, "/tided.sock");
  TIDE_ASSIGN_OR_RETURN(UniqueFd listener, wire::ListenUnix(socket_path));
  absl::Status served;
  {
    Server server(options, *journal, clock);
    served = server.Run(std::move(listener), ready);
  }
  unlink(socket_path.c_str());  // still under the caller's lock: nobody else's socket
  return served;
}

}  // namespace tide::coordinator

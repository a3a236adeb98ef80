// Loads a coordinator with thousands of nodes and jobs and measures what it takes.
//
// Starts a tided of its own on loopback, joins nodes that behave as real ones do (they prove the
// secret, say what they offer, acknowledge every allocation, report for the jobs they hold), and
// prints one JSON line. Usage: coordinator_load TIDED FOLDER [--jobs=N] [--nodes=N] [--probes=N]
// [--reports=N] [--reports_per_s=N]
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "cpp/coordinator/tcp_peer.h"
#include "wire/client.h"

extern char** environ;

namespace tide::coordinator {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(60);
constexpr char kSecret[] = "a secret of the load program";
constexpr int kSpareDevices = 1;  // of each node, so that a probe starts at once

struct Options {
  std::string tided, folder;
  int64_t jobs = 10'000;
  int64_t nodes = 1000;
  int64_t probes = 1000;           // grants measured, with and without reports beside them
  int64_t reports = 500'000;       // of the flood
  int64_t reports_per_s = 10'000;  // beside the probes: a node reports each job once a second
};

int64_t NowNs() { return RealClock().MonotonicNanos(); }

[[noreturn]] void Fail(const std::string& what) {
  fprintf(stderr, "coordinator_load: %s\n", what.c_str());
  exit(1);
}

std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

double Percentile(std::vector<double> values, double share) {
  if (values.empty()) Fail("nothing was measured");
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(static_cast<double>(values.size() - 1) * share)];
}

/// Puts a process on the first of this machine's cores, or on all others.
void Pin(pid_t pid, bool first) {
  const unsigned count = std::thread::hardware_concurrency();
  if (count < 2) return;
  cpu_set_t cores;
  CPU_ZERO(&cores);
  for (unsigned core = 0; core < count; ++core) {
    if ((core == 0) == first) CPU_SET(core, &cores);
  }
  sched_setaffinity(pid, sizeof cores, &cores);
}

/// The tided under load, on one core, with a journal that outlives it.
class Daemon {
 public:
  explicit Daemon(const Options& options) : options_(options) {
    const std::string secret = options_.folder + "/secret";
    std::ofstream(secret) << kSecret << "\n";
    chmod(secret.c_str(), 0600);
  }
  ~Daemon() { Kill(); }

  /// Returns the seconds until it answered what the cluster's state is.
  double Start() {
    const int64_t begin_ns = NowNs();
    unlink((options_.folder + "/cluster").c_str());
    std::vector<std::string> words = {options_.tided,
                                      "--runtime-dir",
                                      options_.folder,
                                      "--idle-exit-s",
                                      "0",
                                      "--foreground",
                                      "--listen",
                                      "tcp://127.0.0.1:0",
                                      "--secret-file",
                                      options_.folder + "/secret",
                                      "--lease-s",
                                      "600"};
    std::vector<char*> pointers;
    for (std::string& word : words) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    const int spawned =
        posix_spawn(&pid_, words[0].c_str(), &actions, nullptr, pointers.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    if (spawned != 0) Fail(absl::StrCat("cannot start ", words[0]));
    Pin(pid_, /*first=*/true);
    while (true) {
      if (waitpid(pid_, nullptr, WNOHANG) == pid_) Fail("tided ended");
      if (NowNs() - begin_ns > absl::ToInt64Nanoseconds(kPatience)) Fail("tided does not serve");
      auto client = wire::Client::Connect(options_.folder + "/tided.sock", absl::Seconds(5));
      if (client.ok() && (*client)->Ask(wire::Query{.what = "cluster"}, kPatience).ok()) break;
      std::this_thread::yield();
    }
    address_ = FirstLine(options_.folder + "/cluster");
    return static_cast<double>(NowNs() - begin_ns) / 1e9;
  }

  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(std::exchange(pid_, -1), nullptr, 0);
  }

  /// A number of the cluster's record.
  int64_t Ask(const std::string& field) const {
    const auto answer = Connect()->Ask(wire::Query{.what = "cluster"}, kPatience);
    if (!answer.ok() || !answer->ok) Fail("the daemon does not say how the cluster is");
    return answer->data.Int(field);
  }
  std::unique_ptr<wire::Client> Connect() const {
    auto client = wire::Client::Connect(options_.folder + "/tided.sock", kPatience);
    if (!client.ok()) Fail(std::string(client.status().message()));
    return *std::move(client);
  }

  int64_t resident_bytes() const {
    std::ifstream file(absl::StrCat("/proc/", pid_, "/statm"));
    int64_t total = 0, resident = 0;
    file >> total >> resident;
    return resident * sysconf(_SC_PAGESIZE);
  }
  /// Processor seconds used so far.
  double cpu_s() const {
    std::ifstream file(absl::StrCat("/proc/", pid_, "/stat"));
    std::string word;
    for (int i = 0; i < 13; ++i) file >> word;
    int64_t user = 0, system = 0;
    file >> user >> system;
    return static_cast<double>(user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
  }
  const std::string& address() const { return address_; }

 private:
  const Options& options_;
  std::string address_;
  pid_t pid_ = -1;
};

/// All nodes of the cluster on one thread. Each also submits its share of the jobs.
class Fleet {
 public:
  Fleet(const std::string& address, int64_t nodes, int64_t devices_each)
      : epoll_(epoll_create1(EPOLL_CLOEXEC)) {
    for (int64_t i = 0; i < nodes; ++i) {
      nodes_.push_back(Node{std::make_unique<TcpPeer>(address, kSecret), {}});
      TcpPeer& peer = *nodes_.back().peer;
      if (!peer.Prove(kPatience).ok()) Fail(std::string(peer.status().message()));
      peer.Say(wire::Hello{.role = wire::Role::kNode});
      peer.Say(wire::Join{
          .node = absl::StrCat("n", i), .devices = devices_each, .incarnation = getpid()});
      epoll_event event{.events = EPOLLIN, .data = {.u64 = static_cast<uint64_t>(i)}};
      epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, peer.fd(), &event);
    }
    Until([&] { return leases_ == nodes; }, "the nodes joined");
  }

  /// Handles all that comes within `wait_ms`. What breaks a link ends the program, unless it may.
  void Turn(int wait_ms) {
    epoll_event events[256];
    const int ready = epoll_wait(epoll_.get(), events, 256, wait_ms);
    for (int i = 0; i < ready; ++i) {
      Node& node = nodes_[events[i].data.u64];
      while (const auto message = node.peer->Poll()) Handle(node, *message);
      if (node.peer->status().ok()) continue;
      if (!may_break_) Fail(absl::StrCat("a link broke: ", node.peer->status().message()));
      epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, node.peer->fd(), nullptr);
    }
  }
  template <typename Done>
  void Until(Done done, const char* what) {
    const int64_t end_ns = NowNs() + absl::ToInt64Nanoseconds(kPatience);
    while (!done()) {
      if (NowNs() > end_ns) Fail(absl::StrCat("waited in vain until ", what));
      Turn(1);
    }
  }

  void Submit(const std::string& key) {
    const uint64_t number = next_request_++;
    asked_[number] = key;
    nodes_[number % nodes_.size()].peer->Say(
        wire::Submit{.key = key, .user = "load", .devices = 1, .estimate_s = 3600}, number);
  }
  void Finish(const std::string& key) {
    const uint64_t number = next_request_++;
    asked_[number] = key;
    nodes_[number % nodes_.size()].peer->Say(wire::Finish{.key = key}, number);
  }
  /// Queues a report of a node's next job; false when the node's socket is full or it has no job.
  bool Report(int64_t number) {
    Node& node = nodes_[static_cast<size_t>(number) % nodes_.size()];
    if (node.held.empty() || !node.peer->TryFlush()) return false;
    const std::string& key = node.held[node.next_report++ % node.held.size()];
    node.peer->Queue(*wire::EncodeMessage(wire::Report{.iterations = number,
                                                       .step_ms = 12.5,
                                                       .resident = int64_t{3} << 30,
                                                       .demoted = int64_t{1} << 30,
                                                       .phase = "forward",
                                                       .key = key}));
    node.peer->TryFlush();
    return true;
  }
  void FlushAll() {
    for (bool done = false; !done; Turn(0)) {
      done = true;
      for (Node& node : nodes_) done = node.peer->TryFlush() && done;
    }
  }

  void set_may_break() { may_break_ = true; }
  int64_t granted_ns(const std::string& key) const {
    const auto found = granted_ns_.find(key);
    return found == granted_ns_.end() ? 0 : found->second;
  }
  bool answered(const std::string& key) const { return answered_.contains(key); }
  void Forget(const std::string& key) { answered_.erase(key), granted_ns_.erase(key); }
  const absl::flat_hash_set<std::string>& answered_keys() const { return answered_; }
  int64_t grants() const { return static_cast<int64_t>(granted_ns_.size()); }

 private:
  struct Node {
    std::unique_ptr<TcpPeer> peer;
    std::vector<std::string> held;
    size_t next_report = 0;
  };

  void Handle(Node& node, const wire::Message& message) {
    if (std::holds_alternative<wire::Lease>(message)) ++leases_;
    if (const auto* allocation = std::get_if<wire::Allocation>(&message)) {
      if (allocation->state == wire::AllocationState::kRun) {
        if (granted_ns_.try_emplace(allocation->key, NowNs()).second)
          node.held.push_back(allocation->key);
      } else {
        std::erase(node.held, allocation->key);
      }
      node.peer->Say(wire::AllocationAck{.key = allocation->key, .revision = allocation->revision});
    }
    if (const auto* answer = std::get_if<wire::Answer>(&message)) {
      const auto found = asked_.find(node.peer->request_id());
      if (!answer->ok) Fail(absl::StrCat("refused: ", answer->error ? answer->error->message : ""));
      if (found == asked_.end()) return;
      answered_.insert(found->second);
      asked_.erase(found);
    }
  }

  UniqueFd epoll_;
  std::vector<Node> nodes_;
  absl::flat_hash_map<std::string, int64_t> granted_ns_;  // by key
  absl::flat_hash_map<uint64_t, std::string> asked_;
  absl::flat_hash_set<std::string> answered_;
  uint64_t next_request_ = 1;
  int64_t leases_ = 0;
  bool may_break_ = false;
};

/// Submits a job, waits until a node has its devices, and ends it again; with reports at an even
/// pace beside it. Returns microseconds from the submission to the grant.
std::vector<double> MeasureGrants(Fleet& fleet, const Options& options, bool reports) {
  std::vector<double> micros;
  const int64_t begin_ns = NowNs();
  int64_t reported = 0;
  const auto turn = [&] {
    fleet.Turn(0);
    const int64_t due = (NowNs() - begin_ns) * options.reports_per_s / 1'000'000'000;
    while (reports && reported < due) fleet.Report(reported++);
  };
  for (int64_t i = 0; i < options.probes; ++i) {
    const std::string key = absl::StrCat("probe-", reports ? "loaded-" : "quiet-", i);
    const int64_t sent_ns = NowNs();
    fleet.Submit(key);
    while (fleet.granted_ns(key) == 0 || !fleet.answered(key)) turn();
    micros.push_back(static_cast<double>(fleet.granted_ns(key) - sent_ns) / 1e3);
    fleet.Forget(key);
    fleet.Finish(key);
    while (!fleet.answered(key)) turn();
    fleet.Forget(key);
  }
  return micros;
}

struct FloodResult {
  double wall_s = 0, cpu_s = 0;
};

/// As many reports as the daemon takes, one a frame, over all connections in turn.
FloodResult Flood(Fleet& fleet, const Daemon& daemon, const Options& options) {
  const int64_t before = daemon.Ask("reports");
  const double cpu_s = daemon.cpu_s();
  const int64_t begin_ns = NowNs();
  int64_t sent = 0;
  for (int64_t i = 0; sent < options.reports; ++i) {
    if (fleet.Report(i)) ++sent;
    if (i % 1024 == 0) fleet.Turn(0);
  }
  fleet.FlushAll();
  while (daemon.Ask("reports") < before + sent) fleet.Turn(1);
  return {static_cast<double>(NowNs() - begin_ns) / 1e9, daemon.cpu_s() - cpu_s};
}

/// Kills the daemon while jobs are submitted, starts it again and counts what it has acknowledged
/// and does not know any more.
int64_t CountLostChanges(Fleet& fleet, Daemon& daemon, const Options& options, double& restart_s) {
  fleet.set_may_break();
  constexpr int64_t kBurst = 2000;
  for (int64_t i = 0; i < kBurst; ++i) {
    fleet.Submit(absl::StrCat("last-", i));
    if (fleet.answered(absl::StrCat("last-", kBurst / 4))) break;  // in the middle of it
    if (i % 16 == 0) fleet.Turn(0);
  }
  daemon.Kill();
  fleet.Turn(0);
  restart_s = daemon.Start();
  const auto client = daemon.Connect();
  int64_t lost = daemon.Ask("jobs_open") < options.jobs ? options.jobs : 0;
  for (const std::string& key : fleet.answered_keys()) {
    if (!absl::StartsWith(key, "last-") && !absl::StartsWith(key, "job-")) continue;
    const auto answer = client->Ask(wire::Query{.what = "explain", .job = key}, kPatience);
    if (!answer.ok()) Fail(std::string(answer.status().message()));
    if (!answer->ok) ++lost;
  }
  return lost;
}

/// A round trip of one byte over a loopback connection: what no grant can be below. Median.
double TcpRoundTripUs() {
  const UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (bind(listener.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      listen(listener.get(), 1) != 0 ||
      getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    Fail("cannot listen on loopback");
  }
  std::thread echo([&listener] {
    const UniqueFd peer(accept(listener.get(), nullptr, nullptr));
    const int one = 1;
    setsockopt(peer.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    for (char byte; recv(peer.get(), &byte, 1, 0) == 1;) send(peer.get(), &byte, 1, MSG_NOSIGNAL);
  });
  std::vector<double> micros;
  {
    const UniqueFd peer = ConnectTcp(absl::StrCat("tcp://127.0.0.1:", ntohs(address.sin_port)));
    char byte = 0;
    for (int i = 0; i < 1000; ++i) {
      const int64_t begin_ns = NowNs();
      if (send(peer.get(), &byte, 1, MSG_NOSIGNAL) != 1 || recv(peer.get(), &byte, 1, 0) != 1)
        break;
      micros.push_back(static_cast<double>(NowNs() - begin_ns) / 1e3);
    }
  }
  echo.join();
  return Percentile(std::move(micros), 0.5);
}

Options ReadOptions(int count, char** words) {
  Options options;
  if (count < 3) Fail("usage: coordinator_load TIDED FOLDER [--jobs=N] [--nodes=N] ...");
  options.tided = words[1];
  options.folder = words[2];
  const std::map<std::string, int64_t*> numbers = {{"--jobs", &options.jobs},
                                                   {"--nodes", &options.nodes},
                                                   {"--probes", &options.probes},
                                                   {"--reports", &options.reports},
                                                   {"--reports_per_s", &options.reports_per_s}};
  for (int i = 3; i < count; ++i) {
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(words[i], absl::MaxSplits('=', 1));
    const auto number = numbers.find(parts.first);
    if (number == numbers.end() || !absl::SimpleAtoi(parts.second, number->second) ||
        *number->second < 1) {
      Fail(absl::StrCat("cannot read ", words[i]));
    }
  }
  return options;
}

void Run(const Options& options) {
  Pin(0, /*first=*/false);
  Daemon daemon(options);
  daemon.Start();
  const int64_t empty_bytes = daemon.resident_bytes();
  Fleet fleet(daemon.address(), options.nodes,
              (options.jobs + options.nodes - 1) / options.nodes + kSpareDevices);
  const int64_t joined_bytes = daemon.resident_bytes();
  for (int64_t i = 0; i < options.jobs; ++i) {
    fleet.Submit(absl::StrCat("job-", i));
    if (i % 64 == 0) fleet.Turn(0);
  }
  fleet.Until([&] { return fleet.grants() == options.jobs; }, "all jobs have devices");
  const int64_t registered = daemon.Ask("jobs_open");
  const std::vector<double> quiet = MeasureGrants(fleet, options, /*reports=*/false);
  const std::vector<double> loaded = MeasureGrants(fleet, options, /*reports=*/true);
  const FloodResult flood = Flood(fleet, daemon, options);
  const int64_t full_bytes = daemon.resident_bytes();
  double restart_s = 0;
  const int64_t lost = CountLostChanges(fleet, daemon, options, restart_s);
  const double reports = static_cast<double>(options.reports);
  const double jobs = static_cast<double>(options.jobs);
  absl::PrintF(
      "{\"jobs_registered\": %d, \"connections\": %d, \"reports_per_s\": %.0f, "
      "\"reports_per_cpu_s\": %.0f, \"grant_rtt_us_p50\": %.1f, \"grant_rtt_us_p99\": %.1f, "
      "\"grant_rtt_quiet_us_p50\": %.1f, \"grant_rtt_quiet_us_p99\": %.1f, "
      "\"bytes_per_job\": %.0f, \"bytes_per_connection\": %.0f, \"restart_s\": %.3f, "
      "\"lost_changes\": %d, \"tcp_round_trip_us_p50\": %.1f}\n",
      registered, options.nodes, reports / flood.wall_s, reports / std::max(flood.cpu_s, 1e-3),
      Percentile(loaded, 0.5), Percentile(loaded, 0.99), Percentile(quiet, 0.5),
      Percentile(quiet, 0.99), static_cast<double>(full_bytes - empty_bytes) / jobs,
      static_cast<double>(joined_bytes - empty_bytes) / static_cast<double>(options.nodes),
      restart_s, lost, TcpRoundTripUs());
}

}  // namespace
}  // namespace tide::coordinator

int main(int count, char** words) {
  signal(SIGPIPE, SIG_IGN);
  tide::coordinator::Run(tide::coordinator::ReadOptions(count, words));
}

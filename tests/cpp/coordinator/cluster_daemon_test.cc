// Real daemons as coordinator and nodes: who is let in, what floods do, what a kill loses.
#include <sys/stat.h>

#include "cpp/coordinator/certificates.h"
#include "cpp/coordinator/daemon_process.h"
#include "cpp/coordinator/tcp_peer.h"

namespace tide::coordinator {
namespace {

constexpr char kSecret[] = "a secret of enough bytes";

class ClusterDaemonTest : public DaemonTest {
 protected:
  ClusterDaemonTest() { WriteSecret(folder() + "/secret", kSecret); }

  static void WriteSecret(const std::string& path, const std::string& secret) {
    std::ofstream(path) << secret;
    chmod(path.c_str(), 0600);
  }
  int Listen(std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {"--listen", "tcp://127.0.0.1:0", "--secret-file",
                                          folder() + "/secret"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Start(std::move(arguments));
  }
  std::string Address() const {
    std::ifstream file(folder() + "/cluster");
    std::string address;
    file >> address;
    return address;
  }
  /// A proven node that has joined with some devices.
  std::unique_ptr<TcpPeer> Join(const std::string& node, int64_t devices) {
    auto peer = std::make_unique<TcpPeer>(Address(), kSecret);
    EXPECT_TRUE(peer->Prove(kPatience).ok()) << peer->status();
    peer->Say(wire::Hello{.role = wire::Role::kNode});
    peer->Say(wire::Join{.node = node, .devices = devices, .incarnation = 1});
    EXPECT_TRUE(peer->Take<wire::Lease>(kPatience).has_value());
    return peer;
  }
  wire::Value Cluster() const { return Ask(wire::Query{.what = "cluster"}).data; }
  /// Waits until the cluster looks as wanted.
  template <typename Wanted>
  bool Until(Wanted wanted) const {
    const absl::Time deadline = absl::Now() + kPatience;
    while (absl::Now() < deadline) {
      if (wanted(Cluster())) return true;
      poll(nullptr, 0, 20);
    }
    return false;
  }
};

TEST_F(ClusterDaemonTest, ANodeJoinsAndItsDevicesAreGranted) {
  ASSERT_EQ(Listen(), 0);
  auto node = Join("n1", 4);
  EXPECT_EQ(Cluster().Int("devices"), 4);
  EXPECT_TRUE(Ask(wire::Submit{.key = "train", .user = "ann", .devices = 3}).ok);
  const auto allocation = node->Take<wire::Allocation>(kPatience);
  ASSERT_TRUE(allocation.has_value());
  EXPECT_EQ(allocation->key, "train");
  EXPECT_EQ(allocation->state, wire::AllocationState::kRun);
  EXPECT_EQ(allocation->devices, 3);
  const wire::Answer why = Ask(wire::Query{.what = "explain", .job = "train"});
  EXPECT_EQ(why.data.Text("state"), "running");
  EXPECT_TRUE(Ask(wire::Submit{.key = "next", .devices = 2, .estimate_s = 5}).ok);
  const wire::Answer waits = Ask(wire::Query{.what = "explain", .job = "next"});
  EXPECT_EQ(waits.data.Text("reason"), "waiting_for_devices");
  EXPECT_NE(waits.data.Text("text").find("it asks for 2 devices, 1 of 4 are free"),
            std::string::npos)
      << waits.data.Text("text");
  EXPECT_TRUE(Ask(wire::Finish{.key = "train"}).ok);
  EXPECT_EQ(node->Take<wire::Allocation>(kPatience)->state, wire::AllocationState::kEnd);
  EXPECT_EQ(node->Take<wire::Allocation>(kPatience)->key, "next");
}

TEST_F(ClusterDaemonTest, WhoDoesNotKnowTheSecretIsToldSoAndCut) {
  ASSERT_EQ(Listen(), 0);
  TcpPeer stranger(Address(), "another secret of bytes");
  const absl::Status proven = stranger.Prove(kPatience);
  EXPECT_TRUE(absl::IsPermissionDenied(proven)) << proven;
  EXPECT_NE(proven.message().find("secret"), absl::string_view::npos) << proven;
  EXPECT_EQ(Cluster().Int("devices"), 0);
}

TEST_F(ClusterDaemonTest, ARecordedConnectionCannotBePlayedAgain) {
  ASSERT_EQ(Listen(), 0);
  auto node = Join("n1", 4);
  node->Say(wire::Submit{.key = "job"}, 5);
  ASSERT_TRUE(node->Take<wire::Answer>(kPatience).has_value());
  const std::string recorded = node->sent();
  ASSERT_TRUE(Ask(wire::Finish{.key = "job"}).ok);
  const UniqueFd again = ConnectTcp(Address());
  ASSERT_EQ(send(again.get(), recorded.data(), recorded.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(recorded.size()));
  char bytes[4096];
  while (recv(again.get(), bytes, sizeof bytes, 0) > 0) {
  }
  EXPECT_EQ(Cluster().Int("jobs_open"), 0);
}

TEST_F(ClusterDaemonTest, AProvenPeerCommandsNoJobOfThisMachine) {
  ASSERT_EQ(Listen(), 0);
  RawJob job(socket(), {.name = "train", .token = 1});
  auto node = Join("n1", 1);
  node->Say(wire::Command{.what = "limit", .job = "train", .bytes = 1 << 20}, 7);
  const auto answer = node->Take<wire::Answer>(kPatience);
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->error->code, "not_permitted");
  node->Say(wire::Command{.what = "shutdown"}, 8);
  EXPECT_EQ(node->Take<wire::Answer>(kPatience)->error->code, "not_permitted");
  EXPECT_TRUE(Ask(wire::Query{.what = "ps"}).ok);
}

TEST_F(ClusterDaemonTest, HalfOpenConnectionsAreBoundedAndCutAndNodesAreServedMeanwhile) {
  ASSERT_EQ(Listen(), 0);
  auto node = Join("n1", 4);
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 1300; ++i) silent.push_back(ConnectTcp(Address()));
  node->Say(wire::Lease{.seq = 1});
  EXPECT_EQ(node->Take<wire::Lease>(kPatience)->seq, 1);
  // Those that were let in are challenged and cut after five seconds, the others at once.
  size_t ended = 0;
  const absl::Time deadline = absl::Now() + kPatience;
  for (const UniqueFd& fd : silent) {
    char bytes[4096];
    pollfd entry{fd.get(), POLLIN, 0};
    while (absl::Now() < deadline && poll(&entry, 1, 1000) >= 0) {
      if ((entry.revents & POLLIN) != 0 && recv(fd.get(), bytes, sizeof bytes, 0) <= 0) break;
      if ((entry.revents & (POLLHUP | POLLERR)) != 0) break;
    }
    ended += absl::Now() < deadline;
  }
  EXPECT_EQ(ended, silent.size());
  EXPECT_EQ(Cluster().Int("devices"), 4);
  Join("n2", 2);
}

TEST_F(ClusterDaemonTest, ASlowReaderIsCutAndTheOthersAreServed) {
  ASSERT_EQ(Listen(), 0);
  auto slow = Join("slow", 1);
  auto node = Join("n1", 1);
  const wire::Frame query = *wire::EncodeMessage(wire::Query{.what = "config"}, 1);
  bool cut = false;
  const absl::Time deadline = absl::Now() + kPatience;
  for (int asked = 0; !cut && absl::Now() < deadline;
       ++asked) {  // 12 KiB each, and nothing is read
    slow->Queue(query);
    if (slow->TryFlush()) continue;
    pollfd entry{slow->fd(), POLLOUT, 0};
    poll(&entry, 1, 100);
    cut = (entry.revents & (POLLERR | POLLHUP)) != 0;
  }
  EXPECT_TRUE(cut);
  node->Say(wire::Lease{.seq = 3});
  EXPECT_EQ(node->Take<wire::Lease>(kPatience)->seq, 3);
}

TEST_F(ClusterDaemonTest, BeyondLoopbackThereIsTlsOrNoListening) {
  const auto listen = [&](std::vector<std::string> more) {
    std::vector<std::string> words = {"--runtime-dir",   folder(),        "--listen",
                                      "tcp://0.0.0.0:0", "--secret-file", folder() + "/secret"};
    words.insert(words.end(), more.begin(), more.end());
    return WaitForExit(Spawn(words));
  };
  EXPECT_EQ(listen({}), 1);
  MakeCertificate(folder(), "c");
  ASSERT_EQ(listen({"--tls-cert", folder() + "/c.crt", "--tls-key", folder() + "/c.key"}), 0);
  const std::string port = Address().substr(Address().rfind(':'));
  TcpPeer plain("tcp://127.0.0.1" + port, kSecret);
  EXPECT_FALSE(plain.Prove(absl::Seconds(7)).ok()) << "without TLS it is not even challenged";
  TcpPeer good("tcp://127.0.0.1" + port, kSecret, *TlsContext::Client({}));
  EXPECT_TRUE(good.Prove(kPatience).ok()) << good.status();
}

TEST_F(ClusterDaemonTest, ASecretThatOthersMayReadOrNoneStartsNothing) {
  chmod((folder() + "/secret").c_str(), 0644);
  EXPECT_EQ(Listen(), 1);
  EXPECT_EQ(Start({"--listen", "tcp://127.0.0.1:0"}), 1);
}

TEST_F(ClusterDaemonTest, AKillLosesNoJobAndNoGrantAndDoublesNone) {
  ASSERT_EQ(Listen(), 0);
  auto node = Join("n1", 4);
  for (int i = 0; i < 3; ++i)
    ASSERT_TRUE(Ask(wire::Submit{.key = "job" + std::to_string(i), .devices = 2}).ok);
  ASSERT_TRUE(Until([](const wire::Value& c) { return c.Int("devices_free") == 0; }));
  const wire::Value before = Cluster();
  Kill();
  ASSERT_EQ(Listen(), 0);
  const wire::Value after = Cluster();
  EXPECT_EQ(after.Int("jobs_open"), 3);
  EXPECT_EQ(after.Int("jobs_running"), 2);
  EXPECT_EQ(after.Int("devices_free"), 0);
  node = Join("n1", 4);
  std::set<std::string> told;
  for (int i = 0; i < 2; ++i) {
    const auto allocation = node->Take<wire::Allocation>(kPatience);
    ASSERT_TRUE(allocation.has_value());
    EXPECT_EQ(allocation->state, wire::AllocationState::kRun);
    told.insert(allocation->key);
  }
  EXPECT_EQ(told, (std::set<std::string>{"job0", "job1"}));
}

TEST_F(ClusterDaemonTest, ASilentNodeIsLostWhenItsLeaseEnds) {
  ASSERT_EQ(Listen({"--lease-s", "1"}), 0);
  auto node = Join("n1", 2);
  ASSERT_TRUE(Ask(wire::Submit{.key = "job", .devices = 2}).ok);
  ASSERT_TRUE(node->Take<wire::Allocation>(kPatience).has_value());
  EXPECT_TRUE(Until([](const wire::Value& c) { return c.Int("devices") == 0; }));
  EXPECT_EQ(Ask(wire::Query{.what = "explain", .job = "job"}).data.Text("state"), "waiting");
  node = Join("n1", 2);
  EXPECT_EQ(node->Take<wire::Allocation>(kPatience)->state, wire::AllocationState::kRun);
}

/// The second daemon, of a node, in a folder of its own.
class NodeDaemonTest : public ClusterDaemonTest {
 protected:
  NodeDaemonTest() { WriteSecret(node_folder_.path() + "/secret", kSecret); }
  ~NodeDaemonTest() override { StopNode(); }
  void StartNode(std::vector<std::string> more = {}) {
    std::vector<std::string> words = {"--runtime-dir", node_folder_.path(),
                                      "--join",        Address(),
                                      "--secret-file", node_folder_.path() + "/secret",
                                      "--node",        "worker",
                                      "--devices",     "2",
                                      "--idle-exit-s", "0",
                                      "--foreground"};
    words.insert(words.end(), more.begin(), more.end());
    node_ = Spawn(words);
  }
  void StopNode() {
    if (node_ <= 0) return;
    kill(node_, SIGKILL);
    WaitForExit(std::exchange(node_, -1));
  }
  std::string NodeSocket() const { return node_folder_.path() + "/tided.sock"; }
  bool Joined(bool works = true) const {
    return Until([&](const wire::Value& cluster) {
      for (const wire::Value& node : *cluster.Find("nodes")->As<wire::Value::Array>()) {
        if (node.Text("name") == "worker" && node.Bool("works") == works) return true;
      }
      return false;
    });
  }

  testing::TempDir node_folder_;
  pid_t node_ = -1;
};

TEST_F(NodeDaemonTest, JobsOfANodePauseAndGoOnAsTheClusterGrants) {
  ASSERT_EQ(Listen(), 0);
  StartNode();
  ASSERT_TRUE(Joined());
  RawJob job(NodeSocket(), {.name = "train", .token = 1});
  auto cli = *wire::Client::Connect(NodeSocket(), kPatience);
  ASSERT_TRUE(cli->Ask(wire::Submit{.key = "other", .devices = 2}, kPatience)->ok)
      << "a node's clients reach the coordinator through it";
  ASSERT_TRUE(cli->Ask(wire::Submit{.key = "train", .devices = 1}, kPatience)->ok);
  ASSERT_TRUE(cli->Ask(wire::Finish{.key = "other"}, kPatience)->ok);
  ASSERT_TRUE(Until([](const wire::Value& c) { return c.Int("jobs_running") == 1; }));
  Ask(wire::Submit{.key = "guard", .devices = 2});
  const wire::Answer why = *cli->Ask(wire::Query{.what = "explain", .job = "guard"}, kPatience);
  EXPECT_EQ(why.data.Text("reason"), "waiting_for_devices");
}

TEST_F(NodeDaemonTest, MovesAndDrainsReachTheCoordinatorThroughANode) {
  ASSERT_EQ(Listen(), 0);
  StartNode();
  ASSERT_TRUE(Joined());
  auto node = Join("other", 1);
  auto cli = *wire::Client::Connect(NodeSocket(), kPatience);
  ASSERT_TRUE(cli->Ask(wire::Submit{.key = "train", .movable = true}, kPatience)->ok);
  ASSERT_TRUE(Until([](const wire::Value& c) { return c.Int("jobs_running") == 1; }));
  const wire::Answer where = *cli->Ask(wire::Query{.what = "placement", .job = "train"}, kPatience);
  ASSERT_EQ(where.data.Find("nodes")->Int("other"), 1);
  const wire::Answer refused = *cli->Ask(wire::Move{.key = "train", .to = "other"}, kPatience);
  ASSERT_TRUE(refused.error.has_value());
  EXPECT_EQ(refused.error->code, "conflict");
  EXPECT_EQ(refused.error->message, "train runs on other already");
  ASSERT_TRUE(cli->Ask(wire::Drain{.node = "other"}, kPatience)->ok);
  ASSERT_TRUE(Until([](const wire::Value& cluster) {
    const wire::Value& job = (*cluster.Find("jobs")->As<wire::Value::Array>())[0];
    return job.Find("moves_to")->Int("worker") == 1;
  }));
  const wire::Answer left =
      *cli->Ask(wire::Move{.key = "train", .step = wire::MoveStep::kLeft}, kPatience);
  EXPECT_EQ(left.data.Find("nodes")->Int("worker"), 1);
  const wire::Answer events = Ask(wire::Query{.what = "events", .job = "train", .count = 10});
  EXPECT_NE(wire::Pack(events.data).find("job_moved"), std::string::npos);
  const wire::Answer why = *cli->Ask(wire::Query{.what = "explain", .job = "train"}, kPatience);
  EXPECT_NE(wire::Pack(*why.data.Find("events")).find("job_moved"), std::string::npos);
  EXPECT_FALSE(Ask(wire::Query{.what = "events", .job = "nobody"}).ok);
  EXPECT_EQ(node->Take<wire::Allocation>(kPatience)->state, wire::AllocationState::kRun);
  EXPECT_EQ(node->Take<wire::Allocation>(kPatience)->state, wire::AllocationState::kRun)
      << "it may run until it has left";
  EXPECT_EQ(node->Take<wire::Allocation>(kPatience)->state, wire::AllocationState::kHold);
}

TEST_F(NodeDaemonTest, ALinkThatIsDownComesBackAndTheGrantsHold) {
  ASSERT_EQ(Listen({"--policy", "srtf"}), 0);
  const std::string address = Address();
  StartNode();
  ASSERT_TRUE(Joined());
  RawJob job(NodeSocket(), {.name = "long", .token = 1});
  ASSERT_TRUE(Ask(wire::Submit{.key = "long", .devices = 2, .estimate_s = 1000}).ok);
  ASSERT_TRUE(Until([](const wire::Value& c) { return c.Int("jobs_running") == 1; }));
  Kill();
  std::vector<std::string> words = {"--listen",           address,    "--secret-file",
                                    folder() + "/secret", "--policy", "srtf"};
  ASSERT_EQ(Start(words), 0);
  ASSERT_TRUE(Until([](const wire::Value& cluster) {
    return (*cluster.Find("nodes")->As<wire::Value::Array>())[0].Bool("connected");
  }));
  EXPECT_EQ(Cluster().Int("jobs_running"), 1);
  ASSERT_TRUE(Ask(wire::Submit{.key = "short", .devices = 2, .estimate_s = 1}).ok);
  const auto order = job.Take<wire::Order>();
  ASSERT_TRUE(order.has_value());
  EXPECT_EQ(order->kind, wire::OrderKind::kSuspend) << "preempted: the shorter one goes first";
  job.Say(wire::OrderAck{.order_id = order->order_id});
  ASSERT_TRUE(Ask(wire::Finish{.key = "short"}).ok);
  auto next = job.Take<wire::Order>();
  // On a slow machine an order is repeated before its answer is there.
  while (next && next->order_id == order->order_id) next = job.Take<wire::Order>();
  ASSERT_TRUE(next.has_value());
  EXPECT_EQ(next->kind, wire::OrderKind::kResume);
}

TEST_F(NodeDaemonTest, AJobThatPausesForAGrantThatWasTakenBackGoesOn) {
  ASSERT_EQ(Listen({"--policy", "srtf"}), 0);
  StartNode();
  ASSERT_TRUE(Joined());
  RawJob job(NodeSocket(), {.name = "long", .token = 1});
  ASSERT_TRUE(Ask(wire::Submit{.key = "long", .devices = 2, .estimate_s = 1000}).ok);
  ASSERT_TRUE(Until([](const wire::Value& c) { return c.Int("jobs_running") == 1; }));
  ASSERT_TRUE(Ask(wire::Submit{.key = "short", .devices = 2, .estimate_s = 1}).ok);
  const auto order = job.Take<wire::Order>();
  ASSERT_TRUE(order.has_value() && order->kind == wire::OrderKind::kSuspend);
  ASSERT_TRUE(Ask(wire::Finish{.key = "short"}).ok);
  ASSERT_TRUE(Until([](const wire::Value& c) { return c.Int("jobs_open") == 1; }));
  job.Say(wire::OrderAck{.order_id = order->order_id});  // only now
  auto next = job.Take<wire::Order>();
  while (next && next->order_id == order->order_id) next = job.Take<wire::Order>();
  ASSERT_TRUE(next.has_value()) << "it would stay paused for ever";
  EXPECT_EQ(next->kind, wire::OrderKind::kResume);
}

}  // namespace
}  // namespace tide::coordinator

// What a coordinator must outlive, over its real socket: a full disk, frames played again, peers
// that do not read or say nothing; and clocks that jump.
#include <sys/resource.h>
#include <sys/stat.h>

#include <set>

#include "cpp/coordinator/daemon_process.h"
#include "cpp/coordinator/fakes.h"
#include "cpp/coordinator/tcp_peer.h"

namespace tide::coordinator {
namespace {

constexpr char kSecret[] = "a secret of enough bytes";

class ClusterHostileTest : public DaemonTest {
 protected:
  ClusterHostileTest() {
    std::ofstream(folder() + "/secret") << kSecret;
    chmod((folder() + "/secret").c_str(), 0600);
  }
  int Listen() {
    return Start({"--listen", "tcp://127.0.0.1:0", "--secret-file", folder() + "/secret"});
  }
  std::string Address() const {
    std::ifstream file(folder() + "/cluster");
    std::string address;
    file >> address;
    return address;
  }
  std::unique_ptr<TcpPeer> Join(const std::string& node) const {
    auto peer = std::make_unique<TcpPeer>(Address(), kSecret);
    EXPECT_TRUE(peer->Prove(kPatience).ok()) << peer->status();
    peer->Say(wire::Hello{.role = wire::Role::kNode});
    peer->Say(wire::Join{.node = node, .devices = 4, .incarnation = 1});
    EXPECT_TRUE(peer->Take<wire::Lease>(kPatience).has_value());
    return peer;
  }
  std::set<std::string> OpenJobs() const {
    std::set<std::string> keys;
    const wire::Answer all = Ask(wire::Query{.what = "cluster"});
    for (const wire::Value& job : *all.data.Find("jobs")->As<wire::Value::Array>())
      keys.insert(job.Text("key"));
    return keys;
  }
  int64_t ResidentBytes() const {
    std::ifstream file("/proc/" + std::to_string(DaemonPid()) + "/statm");
    int64_t size = 0, resident = 0;
    file >> size >> resident;
    return resident * sysconf(_SC_PAGESIZE);
  }
};

TEST_F(ClusterHostileTest, AFullDiskLosesNothingThatWasAnsweredAndKeepsTheFile) {
  testing::Child starter([&] {
    signal(SIGXFSZ, SIG_IGN);  // a write beyond the limit is an error, as on a full disk
    const rlimit small = {.rlim_cur = 300'000, .rlim_max = 300'000};
    return setrlimit(RLIMIT_FSIZE, &small) == 0 ? Listen() : 1;
  });
  ASSERT_EQ(starter.Wait(), 0);
  std::set<std::string> answered;
  {
    auto client = Cli();
    for (int job = 0; job < 20'000; ++job) {
      const std::string key = std::to_string(job);
      const auto answer =
          client->Ask(wire::Submit{.key = key, .user = std::string(500, 'u')}, kPatience);
      if (!answer.ok() || !answer->ok) break;
      answered.insert(key);
    }
  }
  ASSERT_GT(answered.size(), 10u);
  ASSERT_LT(answered.size(), 20'000u) << "the disk was never full";
  Kill();
  // Still full: it does not take what it cannot write to for broken.
  testing::Child again([&] {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit none = {.rlim_cur = 0, .rlim_max = 0};
    return setrlimit(RLIMIT_FSIZE, &none) == 0 ? Listen() : 7;
  });
  EXPECT_NE(again.Wait(), 0);
  EXPECT_FALSE(std::filesystem::exists(folder() + "/tided.db.broken"));
  ASSERT_EQ(Listen(), 0);
  const std::set<std::string> open = OpenJobs();
  for (const std::string& key : answered) EXPECT_TRUE(open.contains(key)) << key << " is lost";
  EXPECT_LE(open.size(), answered.size() + 1) << "the last may be there without its answer";
}

TEST_F(ClusterHostileTest, AFrameThatIsPlayedAgainEndsItsConnectionAndIsNotCarriedOut) {
  ASSERT_EQ(Listen(), 0);
  auto node = Join("n1");
  const size_t before = node->sent().size();
  node->Say(wire::Submit{.key = "job"}, 5);
  ASSERT_TRUE(node->Take<wire::Answer>(kPatience)->ok);
  const std::string frame = node->sent().substr(before);
  node->Say(wire::Finish{.key = "job"}, 6);
  ASSERT_TRUE(node->Take<wire::Answer>(kPatience)->ok);
  ASSERT_EQ(send(node->fd(), frame.data(), frame.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(frame.size()));
  auto next = node->Next(kPatience);
  while (next.ok()) next = node->Next(kPatience);
  EXPECT_TRUE(absl::IsUnavailable(next.status())) << next.status() << ": it was not cut";
  EXPECT_TRUE(OpenJobs().empty()) << "the job was submitted twice";
  Join("n1");
}

#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)  // whose memory counts too
TEST_F(ClusterHostileTest, PeersThatSayNothingOrDoNotReadTakeBoundedMemory) {
  // 16 MiB may be queued to each of 16, behind as much that was sent and not yet cut off the front.
  constexpr int64_t kPeersMiB = 16 * 32 + 32;
  ASSERT_EQ(Listen(), 0);
  auto node = Join("n1");
  const int64_t before = ResidentBytes();
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 900; ++i) silent.push_back(ConnectTcp(Address()));
  node->Say(wire::Lease{.seq = 1});
  ASSERT_EQ(node->Take<wire::Lease>(kPatience)->seq, 1);
  const int64_t half_open = ResidentBytes() - before;
  EXPECT_LT(half_open, 900 * (64 << 10)) << "of each connection that says nothing";
  std::vector<std::unique_ptr<TcpPeer>> slow;
  for (int i = 0; i < 16; ++i) slow.push_back(Join("slow" + std::to_string(i)));
  const wire::Frame query = *wire::EncodeMessage(wire::Query{.what = "config"}, 1);
  std::set<size_t> cut;
  const absl::Time deadline = absl::Now() + kPatience;
  int64_t most = 0;
  while (cut.size() < slow.size() && absl::Now() < deadline) {
    for (size_t i = 0; i < slow.size(); ++i) {
      if (cut.contains(i)) continue;
      for (int k = 0; k < 50; ++k) slow[i]->Queue(query);
      if (slow[i]->TryFlush()) continue;
      pollfd entry{slow[i]->fd(), POLLOUT, 0};
      poll(&entry, 1, 10);
      if ((entry.revents & (POLLERR | POLLHUP)) != 0) cut.insert(i);
    }
    most = std::max(most, ResidentBytes() - before);
  }
  EXPECT_EQ(cut.size(), slow.size());
  EXPECT_LT(most, kPeersMiB << 20);
  RecordProperty("half_open_bytes", std::to_string(half_open));
  RecordProperty("slow_bytes", std::to_string(most));
  node->Say(wire::Lease{.seq = 2});
  auto lease = node->Take<wire::Lease>(kPatience);
  ASSERT_TRUE(lease.has_value());
  EXPECT_EQ(lease->seq, 2);
}
#endif

/// A coordinator on clocks that the test moves as no clock should.
class ClusterClockTest : public ::testing::Test {
 protected:
  void Start(Clock& clock) {
    edges_ = std::make_unique<FakeEdges>();
    ClusterSettings settings{.lease_ms = 3000};
    core_ = std::make_unique<Core>(Core::Parts{journal_, *edges_, device_, clock}, settings);
    ASSERT_TRUE(core_->Start(1).ok());
    node_ = PeerId(next_peer_++);
    core_->Connected(node_, 0, /*remote=*/true);
    Say(wire::Hello{.role = wire::Role::kNode});
    Say(wire::Join{.node = "n", .devices = 2});
  }
  void Say(wire::Message message) {
    core_->Received(node_, *wire::EncodeMessage(std::move(message), 3));
    ASSERT_TRUE(core_->Flush().ok());
  }
  const ClusterEngine& engine() const { return *core_->state().cluster.engine; }

  MemoryJournal journal_;
  FakeDevice device_;
  std::unique_ptr<FakeEdges> edges_;
  std::unique_ptr<Core> core_;
  PeerId node_;
  int64_t next_peer_ = 1;
};

TEST_F(ClusterClockTest, TimeNeverGoesBackWhateverTheClocksDo) {
  SimulatedClock clock(absl::UnixEpoch() + absl::Hours(1000));
  Start(clock);
  clock.Advance(absl::Seconds(1000));
  Say(wire::Submit{.key = "a"});
  EXPECT_DOUBLE_EQ(engine().now_s(), 1000);
  clock.Advance(absl::Seconds(-700));  // of a machine that was moved
  Say(wire::Submit{.key = "b"});
  EXPECT_DOUBLE_EQ(engine().now_s(), 1000);
  clock.Advance(absl::Seconds(800));
  Say(wire::Finish{.key = "a"});
  EXPECT_DOUBLE_EQ(engine().now_s(), 1100);
  // Another boot: both clocks begin anew, one of them in another year.
  SimulatedClock other(absl::UnixEpoch());
  Start(other);
  EXPECT_GE(engine().now_s(), 1100);
  other.Advance(absl::Seconds(2));
  Say(wire::Finish{.key = "b"});
  EXPECT_NEAR(engine().now_s(), 1102, 0.01);
}

TEST_F(ClusterClockTest, AJumpForwardLosesNodesUntilTheyAreHeardAgainAndNoJob) {
  SimulatedClock clock(absl::UnixEpoch() + absl::Hours(1000));
  Start(clock);
  Say(wire::Submit{.key = "a", .devices = 2});
  ASSERT_EQ(engine().running_jobs(), 1u);
  clock.Advance(absl::Hours(24 * 365));
  core_->RunTick();
  ASSERT_TRUE(core_->Flush().ok());
  EXPECT_EQ(engine().running_jobs(), 0u);
  EXPECT_EQ(engine().open_jobs().size(), 1u);
  Say(wire::Join{.node = "n", .devices = 2});
  EXPECT_EQ(engine().running_jobs(), 1u);
}

}  // namespace
}  // namespace tide::coordinator

// Peers that the daemon must outlive, over its real socket: too many, floods, frames cut short,
// another version. Each time others are served and the daemon's memory stays bounded.
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "cpp/coordinator/daemon_process.h"

namespace tide::coordinator {
namespace {

constexpr int64_t kGrowthMax = 128 << 20;  // far above what is needed, far below what a leak takes

class HostilePeerTest : public DaemonTest {
 protected:
  int64_t ResidentBytes() const {
    std::ifstream file("/proc/" + std::to_string(DaemonPid()) + "/statm");
    int64_t size = 0, resident = 0;
    file >> size >> resident;
    return resident * sysconf(_SC_PAGESIZE);
  }
  /// The error with which the daemon refuses or cuts; nothing when it says none in time.
  static std::optional<wire::AnswerError> ErrorOf(wire::UnixChannel& channel) {
    const absl::Time deadline = absl::Now() + kPatience;
    while (absl::Now() < deadline) {
      auto frame = channel.Receive();
      if (!frame.ok()) return std::nullopt;
      if (!*frame) {
        channel.Wait(absl::Seconds(1));
        continue;
      }
      const auto message = wire::DecodeMessage(**frame);
      const auto* answer = message.ok() ? std::get_if<wire::Answer>(&*message) : nullptr;
      if (answer != nullptr && answer->error) return answer->error;
    }
    return std::nullopt;
  }
  std::unique_ptr<wire::UnixChannel> Peer() const {
    auto channel = std::make_unique<wire::UnixChannel>(*wire::ConnectUnix(socket()));
    // A refused peer may be gone already: its answer is there all the same.
    channel->Send(*wire::EncodeMessage(wire::Hello{.role = wire::Role::kCli, .pid = getpid()}))
        .IgnoreError();
    return channel;
  }
  static bool Welcomed(wire::UnixChannel& channel) { return Gets<wire::Welcome>(channel); }
  template <typename M>
  static bool Gets(wire::UnixChannel& channel) {
    const absl::Time deadline = absl::Now() + kPatience;
    while (absl::Now() < deadline) {
      auto frame = channel.Receive();
      if (!frame.ok()) return false;
      if (*frame) {
        const auto message = wire::DecodeMessage(**frame);
        return message.ok() && std::holds_alternative<M>(*message);
      }
      channel.Wait(absl::Seconds(1));
    }
    return false;
  }
  static void SendAll(int fd, const std::string& bytes) {
    ASSERT_EQ(send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
};

TEST_F(HostilePeerTest, AThousandAndMorePeersAreServedAtOnce) {
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  if (limit.rlim_max < 4096) GTEST_SKIP() << "this machine allows too few open files";
  const rlimit raised = {.rlim_cur = 4096, .rlim_max = limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &raised), 0);
  ASSERT_EQ(Start(), 0);
  std::vector<std::unique_ptr<wire::UnixChannel>> peers;
  for (int i = 0; i < 1200; ++i) {  // one after the other: the queue of who connects is short
    peers.push_back(Peer());
    ASSERT_TRUE(Welcomed(*peers.back())) << i;
  }
  EXPECT_TRUE(Ask(wire::Query{.what = "ps"}).ok);
  peers.clear();
  setrlimit(RLIMIT_NOFILE, &limit);
}

TEST_F(HostilePeerTest, WhoDoesNotFitTheLimitOfOpenFilesIsToldSoAndTheOthersAreServed) {
  testing::Child starter([&] {
    const rlimit low = {.rlim_cur = 160, .rlim_max = 160};
    return setrlimit(RLIMIT_NOFILE, &low) == 0 ? Start() : 1;
  });
  ASSERT_EQ(starter.Wait(), 0);
  std::vector<std::unique_ptr<wire::UnixChannel>> peers;
  size_t welcomed = 0;
  for (; welcomed < 200; ++welcomed) {
    peers.push_back(Peer());
    if (!Welcomed(*peers.back())) break;
  }
  EXPECT_GE(welcomed, 50u);
  ASSERT_LT(welcomed, 160u);
  wire::UnixChannel refused(*wire::ConnectUnix(socket()));
  const auto error = ErrorOf(refused);
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->code, "too_many");
  EXPECT_NE(error->message.find("160 open files"), std::string::npos) << error->message;
  ASSERT_TRUE(peers[0]->Send(*wire::EncodeMessage(wire::Query{.what = "ps"}, 5)).ok());
  EXPECT_TRUE(Gets<wire::Answer>(*peers[0])) << "who was let in is served";
  peers.resize(10);
  const absl::Time deadline = absl::Now() + kPatience;
  bool again = false;
  while (!again && absl::Now() < deadline) {  // until the daemon has seen them go
    auto peer = Peer();
    again = Welcomed(*peer);
  }
  EXPECT_TRUE(again) << "there is room again";
}

TEST_F(HostilePeerTest, FramesThatAreCutAtAnyByteHarmNobody) {
  ASSERT_EQ(Start(), 0);
  RawJob job(socket(), {.name = "train", .token = 1});
  const std::string hello = *wire::EncodeFrame(
      *wire::EncodeMessage(wire::Hello{.role = wire::Role::kCli, .pid = getpid()}));
  const std::string bytes =
      hello + *wire::EncodeFrame(*wire::EncodeMessage(
                  wire::Command{.what = "limit", .job = "train", .bytes = 5 << 20}, 1));
  const int64_t before = ResidentBytes();
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_TRUE(Ask(wire::Query{.what = "ps"}).ok);  // accepted: there is room in the queue
    auto fd = wire::ConnectUnix(socket());
    ASSERT_TRUE(fd.ok()) << fd.status();
    if (size > 0) SendAll(fd->get(), bytes.substr(0, size));
  }
  EXPECT_EQ(Jobs()[0].Int("limit"), 0) << "a command without its last byte is none";
  EXPECT_LT(ResidentBytes() - before, kGrowthMax);
}

TEST_F(HostilePeerTest, AFloodIsSlowedAndTheOthersAreServed) {
  ASSERT_EQ(Start(), 0);
  RawJob job(socket(), {.name = "train", .token = 1});
  const std::string frame = *wire::EncodeFrame(*wire::EncodeMessage(wire::Report{.iterations = 1}));
  std::string many;
  for (int i = 0; i < 1000; ++i) many += frame;
  wire::UnixChannel flood(*wire::ConnectUnix(socket()));
  SendAll(flood.fd(), *wire::EncodeFrame(*wire::EncodeMessage(
                          wire::Hello{.role = wire::Role::kJob, .pid = getpid()})));
  SendAll(flood.fd(), *wire::EncodeFrame(*wire::EncodeMessage(wire::Register{
                          .name = "flood",
                          .pid = getpid(),
                          .start_time = static_cast<int64_t>(shm::StartTime(getpid())),
                          .token = 2})));
  const int64_t before = ResidentBytes();
  const absl::Time begun = absl::Now();
  size_t sent = 0, at = 0;
  bool held = false;  // the daemon does not read on: the socket is full
  while (absl::Now() - begun < kPatience && !held) {
    const ssize_t count =
        send(flood.fd(), many.data() + at, many.size() - at, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count < 0 && errno != EAGAIN) break;  // cut
    if (count > 0) {
      sent += static_cast<size_t>(count);
      at = (at + static_cast<size_t>(count)) % many.size();
      continue;
    }
    EXPECT_TRUE(Ask(wire::Query{.what = "ps"}).ok) << "while another one floods";
    held = sent / frame.size() > 10'000;
    pollfd entry{flood.fd(), POLLOUT, 0};
    poll(&entry, 1, 1000);
  }
  EXPECT_TRUE(held) << sent << " bytes, errno " << errno;
  EXPECT_LT(ResidentBytes() - before, kGrowthMax);
  EXPECT_EQ(Jobs()[0].Text("name"), "train");
}

TEST_F(HostilePeerTest, APeerOfAnotherVersionIsToldWhichOneIsSpoken) {
  ASSERT_EQ(Start(), 0);
  std::string hello = *wire::EncodeFrame(
      *wire::EncodeMessage(wire::Hello{.role = wire::Role::kCli, .pid = getpid()}));
  hello[offsetof(wire::FrameHeader, version)] ^= 0x40;
  wire::UnixChannel other(*wire::ConnectUnix(socket()));
  SendAll(other.fd(), hello);
  const auto error = ErrorOf(other);
  ASSERT_TRUE(error.has_value());
  EXPECT_NE(error->message.find("version"), std::string::npos) << error->message;
  EXPECT_TRUE(Ask(wire::Query{.what = "ps"}).ok);
}

}  // namespace
}  // namespace tide::coordinator

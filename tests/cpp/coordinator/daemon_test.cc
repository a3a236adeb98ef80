// The real daemon as a process: start, kill, restart, deaths, intruders.
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <thread>

#include "cpp/coordinator/daemon_process.h"

namespace tide::coordinator {
namespace {

TEST_F(DaemonTest, StartsServesAndASecondOneEndsAtOnce) {
  ASSERT_EQ(Start(), 0);
  const pid_t pid = DaemonPid();
  EXPECT_EQ(Ask(wire::Query{.what = "status"}).data.Int("pid"), pid);
  EXPECT_EQ(Start(), 0);
  EXPECT_EQ(DaemonPid(), pid);
  EXPECT_EQ(std::filesystem::status(socket()).permissions() & std::filesystem::perms::all,
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
}

TEST_F(DaemonTest, OfManyThatStartAtOnceExactlyOneServes) {
  std::vector<pid_t> starters;
  for (int i = 0; i < 8; ++i)
    starters.push_back(Spawn({"--runtime-dir", folder(), "--idle-exit-s", "0"}));
  for (pid_t starter : starters) EXPECT_EQ(WaitForExit(starter), 0);
  EXPECT_EQ(Ask(wire::Query{.what = "status"}).data.Int("pid"), DaemonPid());
  const wire::Answer events = Ask(wire::Query{.what = "events"});
  EXPECT_EQ(events.data.Find("events")->As<wire::Value::Array>()->size(), 1u) << "one start";
}

TEST_F(DaemonTest, FiftyClientsRegisterUnderNamesOfTheirOwn) {
  ASSERT_EQ(Start(), 0);
  std::vector<std::unique_ptr<RawJob>> jobs;
  std::set<std::string> names;
  for (int i = 1; i <= 50; ++i) {
    jobs.push_back(std::make_unique<RawJob>(socket(), wire::Register{.name = "train", .token = i}));
    names.insert(jobs.back()->welcome().name);
  }
  EXPECT_EQ(names.size(), 50u);
  EXPECT_TRUE(names.contains("train-50"));
  EXPECT_EQ(Jobs().size(), 50u);
}

TEST_F(DaemonTest, ALimitGoesRoundThroughTheJob) {
  ASSERT_EQ(Start(), 0);
  RawJob job(socket(), {.name = "train", .token = 1});
  std::thread cli([&] {
    const wire::Answer answer =
        Ask(wire::Command{.what = "limit", .job = "train", .bytes = 5 << 20});
    EXPECT_EQ(answer.data.Text("status"), "applied");
    EXPECT_EQ(answer.data.Int("moved_bytes"), 77);
  });
  const auto grant = job.Take<wire::Grant>();
  ASSERT_TRUE(grant.has_value());
  EXPECT_EQ(grant->max_bytes, 5 << 20);
  job.Say(wire::GrantAck{.revision = grant->revision, .moved_bytes = 77});
  cli.join();
}

TEST_F(DaemonTest, AKillLosesNoNameNoLimitAndNoEvent) {
  ASSERT_EQ(Start(), 0);
  auto job = std::make_unique<RawJob>(socket(), wire::Register{.name = "train", .token = 1});
  Ask(wire::Command{.what = "limit", .job = "train", .bytes = 5 << 20, .timeout_ms = 1});
  const int64_t generation = Ask(wire::Query{.what = "status"}).data.Int("generation");
  const int64_t last_seq = Ask(wire::Query{.what = "events"}).data.Int("last_seq");
  Kill();
  ASSERT_EQ(Start(), 0);
  EXPECT_GT(Ask(wire::Query{.what = "status"}).data.Int("generation"), generation);
  const auto records = Jobs();
  ASSERT_EQ(records.size(), 1u);
  EXPECT_EQ(records[0].Text("name"), "train");
  EXPECT_EQ(records[0].Int("limit"), 5 << 20);
  EXPECT_FALSE(records[0].Bool("attached", true));
  EXPECT_GT(Ask(wire::Query{.what = "events"}).data.Int("last_seq"), last_seq);
  RawJob again(socket(), {.name = "whatever", .job_id = job->welcome().job_id});
  EXPECT_EQ(again.welcome().name, "train");
  EXPECT_EQ(again.Take<wire::Grant>()->max_bytes, 5 << 20);
}

TEST_F(DaemonTest, AKilledJobIsNoticedWithinASecondEvenWhenItsChildHoldsTheSocket) {
  ASSERT_EQ(Start(), 0);
  auto follower = Cli();
  ASSERT_TRUE(follower->Ask(wire::Query{.what = "events", .follow = true}, kPatience).ok());
  testing::Child child([&] {
    RawJob job(socket(), {.name = "doomed", .token = 1});
    if (fork() == 0) {  // inherits the socket and outlives its parent for a while
      prctl(PR_SET_PDEATHSIG, 0);
      poll(nullptr, 0, 3000);
      _exit(0);
    }
    pause();
    return 0;
  });
  const auto next = [&](const std::string& kind) {
    while (true) {
      auto frame = follower->Next(kPatience);
      if (!frame.ok() || !*frame) return wire::Event{};
      auto message = wire::DecodeMessage(**frame);
      if (std::get<wire::Event>(*message).kind == kind) return std::get<wire::Event>(*message);
    }
  };
  EXPECT_EQ(next("job_started").job, "doomed");
  const absl::Time killed = absl::Now();
  child.Signal(SIGKILL);
  const wire::Event died = next("job_died");
  EXPECT_LT(absl::Now() - killed, absl::Seconds(1));
  EXPECT_EQ(died.job, "doomed");
  EXPECT_NE(died.text.find("died (signal 9, SIGKILL)"), std::string::npos) << died.text;
  EXPECT_EQ(Jobs()[0].Text("state"), "gone");
}

TEST_F(DaemonTest, SigtermEndsItCleanly) {
  ASSERT_EQ(Start(), 0);
  Kill(SIGTERM);
  EXPECT_FALSE(std::filesystem::exists(socket()));
  EXPECT_FALSE(std::filesystem::exists(folder() + "/tided.pid"));
}

TEST_F(DaemonTest, EndsWhenThereIsNothingToDo) {
  const pid_t pid = Spawn({"--runtime-dir", folder(), "--idle-exit-s", "1", "--foreground"});
  EXPECT_EQ(WaitForExit(pid), 0);
}

TEST_F(DaemonTest, AStaleSocketOfAKilledDaemonIsReplaced) {
  ASSERT_EQ(Start(), 0);
  Kill();
  EXPECT_TRUE(std::filesystem::exists(socket()));
  ASSERT_EQ(Start(), 0);
  EXPECT_TRUE(Ask(wire::Query{.what = "ps"}).ok);
}

TEST_F(DaemonTest, ServesAFolderWhosePathIsLongerThanASocketAddress) {
  const std::string deep = folder() + "/" + std::string(120, 'd');
  ASSERT_EQ(WaitForExit(Spawn({"--runtime-dir", deep, "--idle-exit-s", "0"})), 0);
  auto client = wire::Client::Connect(deep + "/tided.sock", kPatience);
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_TRUE((*client)->Ask(wire::Command{.what = "shutdown"}, kPatience)->ok);
}

TEST_F(DaemonTest, RefusesAFolderThatIsOpenToOthersOrALink) {
  chmod(folder().c_str(), 0755);
  EXPECT_EQ(Start(), 1);
  chmod(folder().c_str(), 0700);
  const std::string link = folder() + "/link";
  ASSERT_EQ(symlink(folder().c_str(), link.c_str()), 0);
  EXPECT_EQ(WaitForExit(Spawn({"--runtime-dir", link})), 1);
}

TEST_F(DaemonTest, RefusesAFolderOfAnotherUser) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to make one";
  ASSERT_EQ(chown(folder().c_str(), 12345, 12345), 0);
  EXPECT_EQ(Start(), 1);
  ASSERT_EQ(chown(folder().c_str(), 0, 0), 0);
}

TEST_F(DaemonTest, GarbageIsToldWhyAndCutAndTheOthersAreServed) {
  ASSERT_EQ(Start(), 0);
  wire::UnixChannel other(*wire::ConnectUnix(socket()));
  ASSERT_GT(send(other.fd(), "GET / HTTP/1.1\r\n\r\nmore than a header's worth of bytes", 50, 0),
            0);
  absl::StatusOr<std::optional<wire::Frame>> frame = std::optional<wire::Frame>();
  while (frame.ok() && !*frame) {
    other.Wait(kPatience);
    frame = other.Receive();
  }
  ASSERT_TRUE(frame.ok()) << frame.status();
  const auto answer = std::get<wire::Answer>(*wire::DecodeMessage(**frame));
  EXPECT_EQ(answer.error->code, "protocol");
  do {
    other.Wait(kPatience);
    frame = other.Receive();
  } while (frame.ok());
  EXPECT_TRUE(absl::IsUnavailable(frame.status()));
  EXPECT_TRUE(Ask(wire::Query{.what = "ps"}).ok);
}

TEST_F(DaemonTest, ASlowReaderIsCutAndTheOthersAreServed) {
  ASSERT_EQ(Start(), 0);
  wire::UnixChannel slow(*wire::ConnectUnix(socket()));
  ASSERT_TRUE(
      slow.Send(*wire::EncodeMessage(wire::Hello{.role = wire::Role::kCli, .pid = getpid()})).ok());
  absl::Status sent;
  for (int asked = 0; asked < 20'000 && sent.ok(); ++asked) {  // 12 KiB each, and nothing is read
    sent = slow.Send(*wire::EncodeMessage(wire::Query{.what = "config"}));
    if (asked % 100 != 0) continue;
    EXPECT_TRUE(Ask(wire::Query{.what = "ps"}).ok);
  }
  EXPECT_TRUE(absl::IsUnavailable(sent)) << sent;
}

TEST_F(DaemonTest, SilentConnectionsAreCut) {
  ASSERT_EQ(Start(), 0);
  wire::UnixChannel silent(*wire::ConnectUnix(socket()));
  const absl::Time begun = absl::Now();
  absl::StatusOr<std::optional<wire::Frame>> frame = std::optional<wire::Frame>();
  while (frame.ok() && absl::Now() - begun < kPatience) {
    silent.Wait(absl::Seconds(1));
    frame = silent.Receive();
  }
  EXPECT_TRUE(absl::IsUnavailable(frame.status()));
}

}  // namespace
}  // namespace tide::coordinator

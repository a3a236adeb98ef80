// JobSession, the job's side as it is, against the real daemon.
#include "absl/synchronization/mutex.h"
#include "cpp/coordinator/daemon_process.h"
#include "wire/session.h"

namespace tide::coordinator {
namespace {

/// A job whose I/O thread answers grants and orders, as the runtime does.
class Job {
 public:
  Job(const std::string& socket_path, std::string name)
      : session_(socket_path,
                 wire::SessionOptions{
                     .job = {.name = std::move(name),
                             .pid = getpid(),
                             .start_time = static_cast<int64_t>(shm::StartTime(getpid()))}},
                 Callbacks()) {}
  wire::JobSession& session() { return session_; }
  int welcomes() {
    absl::MutexLock lock(&mu_);
    return welcomes_;
  }
  bool AwaitWelcomes(int count) {
    absl::MutexLock lock(&mu_);
    const auto reached = [this, count] { return welcomes_ >= count; };
    return mu_.AwaitWithTimeout(absl::Condition(&reached), kPatience);
  }

 private:
  wire::SessionCallbacks Callbacks() {
    return {.on_welcome =
                [this](const wire::Welcome&) {
                  absl::MutexLock lock(&mu_);
                  ++welcomes_;
                },
            .on_grant =
                [this](const wire::Grant& grant) {
                  session_.Post(
                      wire::GrantAck{.revision = grant.revision, .moved_bytes = 11, .took_ms = 2});
                },
            .on_order =
                [this](const wire::Order& order) {
                  session_.Post(wire::OrderAck{.order_id = order.order_id, .took_ms = 3});
                }};
  }
  absl::Mutex mu_;
  int welcomes_ ABSL_GUARDED_BY(mu_) = 0;
  wire::JobSession session_;  // last: its thread uses the above
};

using SessionDaemonTest = DaemonTest;

TEST_F(SessionDaemonTest, AttachesAnswersGrantsAndOrdersAndSaysBye) {
  ASSERT_EQ(Start(), 0);
  Job job(socket(), "train");
  ASSERT_TRUE(job.session().WaitAttached(kPatience).ok());
  EXPECT_EQ(job.session().name(), "train");
  const wire::Answer limit = Ask(wire::Command{.what = "limit", .job = "train", .bytes = 5 << 20});
  EXPECT_EQ(limit.data.Text("status"), "applied");
  EXPECT_EQ(limit.data.Int("moved_bytes"), 11);
  EXPECT_EQ(Ask(wire::Command{.what = "pause", .job = "train"}).data.Text("status"), "done");
  EXPECT_EQ(Jobs()[0].Text("state"), "paused");
  EXPECT_EQ(Ask(wire::Command{.what = "resume", .job = "train"}).data.Text("status"), "done");
  job.session().Bye(4, kPatience);
  auto records = Jobs();
  EXPECT_EQ(records[0].Text("state"), "gone");
  EXPECT_EQ(records[0].Find("exit")->Int("code"), 4);
}

TEST_F(SessionDaemonTest, WaitsForADaemonThatComesLater) {
  Job job(socket(), "early");
  EXPECT_FALSE(job.session().attached());
  EXPECT_TRUE(absl::IsDeadlineExceeded(job.session().WaitAttached(absl::Milliseconds(1))));
  job.session().Post(wire::Event{.kind = "begun", .text = "before any daemon ran"});
  ASSERT_EQ(Start(), 0);
  ASSERT_TRUE(job.session().WaitAttached(kPatience).ok());
  job.session().Bye(0, kPatience);
  const wire::Answer events = Ask(wire::Query{.what = "events", .job = "early"});
  bool found = false;
  for (const wire::Value& event : *events.data.Find("events")->As<wire::Value::Array>()) {
    found = found || event.Text("kind") == "begun";
  }
  EXPECT_TRUE(found);
}

TEST_F(SessionDaemonTest, AttachesAgainByItselfAfterAKillWithNameAndLimit) {
  ASSERT_EQ(Start(), 0);
  Job first(socket(), "train"), second(socket(), "train");
  ASSERT_TRUE(first.session().WaitAttached(kPatience).ok());
  ASSERT_TRUE(second.session().WaitAttached(kPatience).ok());
  const std::string name = second.session().name();
  EXPECT_EQ(Ask(wire::Command{.what = "limit", .job = name, .bytes = 5 << 20}).data.Text("status"),
            "applied");
  Kill();
  ASSERT_EQ(Start(), 0);
  ASSERT_TRUE(first.AwaitWelcomes(2));
  ASSERT_TRUE(second.AwaitWelcomes(2));
  EXPECT_EQ(second.session().name(), name);
  int live = 0;
  for (const wire::Value& record : Jobs()) {
    live += record.Text("state") != "gone";
    EXPECT_EQ(record.Int("limit"), record.Text("name") == name ? 5 << 20 : 0);
    EXPECT_TRUE(record.Bool("attached"));
  }
  EXPECT_EQ(live, 2);
  EXPECT_EQ(Ask(wire::Command{.what = "limit", .job = name, .bytes = 6 << 20}).data.Text("status"),
            "applied");
}

TEST_F(SessionDaemonTest, AForkedChildAbandonsTheSessionAndTheParentsGoesOn) {
  ASSERT_EQ(Start(), 0);
  Job job(socket(), "train");
  ASSERT_TRUE(job.session().WaitAttached(kPatience).ok());
  testing::Child child([&] {
    job.session().AbandonAfterFork();
    job.session().Post(wire::Report{.phase = "from the child"});
    job.session().Bye(1, absl::Seconds(1));
    return job.session().attached() ? 1 : 0;
  });
  EXPECT_EQ(child.Wait(), 0);
  EXPECT_TRUE(job.session().attached());
  EXPECT_EQ(
      Ask(wire::Command{.what = "limit", .job = "train", .bytes = 5 << 20}).data.Text("status"),
      "applied");
}

TEST_F(SessionDaemonTest, ByeWithoutADaemonReturnsAtOnce) {
  Job job(socket(), "alone");
  const absl::Time begun = absl::Now();
  job.session().Bye(0, absl::Seconds(20));
  EXPECT_LT(absl::Now() - begun, absl::Seconds(10));
}

TEST_F(SessionDaemonTest, PostingNeverWaitsEvenWhenTheDaemonIsStopped) {
  ASSERT_EQ(Start(), 0);
  Job job(socket(), "train");
  ASSERT_TRUE(job.session().WaitAttached(kPatience).ok());
  kill(DaemonPid(), SIGSTOP);
  const absl::Time begun = absl::Now();
  for (int i = 0; i < 20'000; ++i) {
    job.session().Post(wire::Report{.iterations = i, .phase = "running"});
    job.session().Post(wire::Event{.kind = "noise", .text = std::string(500, 'x')});
  }
  EXPECT_LT(absl::Now() - begun, absl::Seconds(20));
  kill(DaemonPid(), SIGCONT);
}

}  // namespace
}  // namespace tide::coordinator

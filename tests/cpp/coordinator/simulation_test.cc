// The daemon's core and the jobs' session machines as they are, on simulated time and a network
// that drops, delays and cuts; the daemon is killed at random instants and replays its journal.
#include <memory>

#include "base/random.h"
#include "cpp/coordinator/fakes.h"
#include "wire/loopback_channel.h"
#include "wire/session_machine.h"

namespace tide::coordinator {
namespace {

constexpr int kJobs = 4;
constexpr int kSteps = 600;
constexpr int64_t kLeastBytes = 100;  // a job cannot go below this limit

/// A job: its session, its end of the link, and what it has applied.
struct SimJob {
  int64_t pid = 0;
  std::unique_ptr<wire::SessionMachine> session;
  std::unique_ptr<wire::Channel> link;
  PeerId peer;
  int64_t last_revision = 0;
  int64_t limit = 0;
  bool paused = false;
  std::optional<wire::Grant> later;  // deferred to the next boundary
};

class Simulation : public testing::TestWithParam<uint64_t>, public Edges {
 protected:
  Simulation() : random_(GetParam()) {}

  // Edges of the daemon: links of the jobs, the command line's answers.
  void SendTo(PeerId peer, const wire::Frame& frame) override {
    if (peer == cli_) return TakeAnswer(frame);
    if (auto it = daemon_ends_.find(peer); it != daemon_ends_.end())
      it->second->Send(frame).IgnoreError();
  }
  void ClosePeer(PeerId peer, const std::string&) override { to_close_.push_back(peer); }
  void Watch(const WatchProcess&) override {}
  void Unwatch(JobId) override {}
  void WriteLanePolicy(int, sched::TurnPolicyId) override {}
  void ReapDeadSlots() override {}
  void StopDaemon(const std::string&) override {}
  bool Alive(int64_t, int64_t) override { return true; }

  void StartDaemon() {
    daemon_ends_.clear();
    core_ = std::make_unique<Core>(Core::Parts{journal_, *this, device_, clock_});
    ASSERT_TRUE(core_->Start(1).ok());
    cli_ = PeerId(next_peer_++);
    core_->Connected(cli_, 0);
    core_->Received(cli_, *wire::EncodeMessage(wire::Hello{.role = wire::Role::kCli, .pid = 1}));
    Commit();
  }
  void Commit() { ASSERT_TRUE(core_->Flush().ok()); }

  void StartJobs() {
    for (int i = 0; i < kJobs; ++i) {
      SimJob& job = jobs_.emplace_back();
      job.pid = 10 + i;
      job.session = std::make_unique<wire::SessionMachine>(wire::SessionOptions{
          .job = {.name = "train", .pid = job.pid, .start_time = 1, .token = 100 + i}});
    }
  }

  void ConnectIfDue(SimJob& job) {
    if (job.link || !job.session->ShouldConnect(clock_.MonotonicNanos())) return;
    wire::LoopbackFaults faults;
    faults.seed = random_.Next();
    faults.delay_max = absl::Milliseconds(50);
    if (!calm_) faults.drop = 0.05, faults.cut = 0.02;
    auto [ours, theirs] = wire::LoopbackPair(clock_, faults);
    job.link = std::move(ours);
    job.peer = PeerId(next_peer_++);
    daemon_ends_[job.peer] = std::move(theirs);
    core_->Connected(job.peer, job.pid);
    job.session->Connected(clock_.MonotonicNanos());
  }

  void Lose(SimJob& job) {
    job.link.reset();
    job.session->Lost(clock_.MonotonicNanos());
  }

  void Apply(SimJob& job, const wire::Grant& grant) {
    wire::GrantAck ack{.revision = grant.revision};
    if (grant.max_bytes != 0 && grant.max_bytes < kLeastBytes) {
      ack.status = wire::GrantStatus::kConflict;
    } else {
      job.limit = grant.max_bytes;
    }
    job.session->Post(ack);
  }

  void OnGrant(SimJob& job, const wire::Grant& grant) {
    ASSERT_GT(grant.revision, job.last_revision) << "a revision went back";
    job.last_revision = grant.revision;
    if (random_.Below(3) == 0) {
      job.later = grant;
      job.session->Post(
          wire::GrantAck{.revision = grant.revision, .status = wire::GrantStatus::kDeferred});
      return;
    }
    job.later.reset();
    Apply(job, grant);
  }

  void OnOrder(SimJob& job, const wire::Order& order) {
    const bool rolls_back = order.kind == wire::OrderKind::kSuspend && random_.Below(4) == 0;
    if (!rolls_back) job.paused = order.kind == wire::OrderKind::kSuspend;
    job.session->Post(wire::OrderAck{
        .order_id = order.order_id,
        .status = rolls_back ? wire::OrderStatus::kRolledBack : wire::OrderStatus::kDone});
  }

  void RunJob(SimJob& job) {
    const int64_t now_ns = clock_.MonotonicNanos();
    ConnectIfDue(job);
    if (!job.link) return;
    if (job.session->Overdue(now_ns)) return Lose(job);
    if (job.later && random_.Below(3) == 0) Apply(job, *std::exchange(job.later, std::nullopt));
    if (random_.Below(5) == 0) job.session->Post(wire::Report{.phase = "running"});
    while (auto frame = job.session->NextFrame(now_ns)) {
      if (!job.link->Send(*frame).ok()) return Lose(job);
    }
    while (true) {
      const auto frame = job.link->Receive();
      if (!frame.ok()) return Lose(job);
      if (!*frame) return;
      const auto incoming = job.session->OnFrame(**frame, now_ns);
      ASSERT_TRUE(incoming.ok()) << incoming.status();
      if (incoming->refusal) return Lose(job);  // a Hello was dropped, which a stream cannot do
      if (incoming->grant) OnGrant(job, *incoming->grant);
      if (incoming->order) OnOrder(job, *incoming->order);
    }
  }

  /// Reads what jobs sent; between decision and journal the daemon may be killed.
  void RunDaemon() {
    for (auto it = daemon_ends_.begin(); it != daemon_ends_.end();) {
      auto frame = it->second->Receive();
      while (frame.ok() && *frame) {
        core_->Received(it->first, **frame);
        frame = it->second->Receive();
      }
      if (frame.ok()) {
        ++it;
        continue;
      }
      core_->Closed(it->first);
      it = daemon_ends_.erase(it);
    }
    core_->RunTick();
    if (!calm_ && random_.Below(60) == 0) {
      pending_.clear();  // the clients' connections ended with the daemon
      return StartDaemon();
    }
    Commit();
    for (const PeerId& peer : std::exchange(to_close_, {})) {
      core_->Closed(peer);
      daemon_ends_.erase(peer);
    }
    Commit();
  }

  void RunCli() {
    if (calm_ || random_.Below(8) != 0 || core_->state().jobs.empty()) return;
    auto it = core_->state().jobs.begin();
    std::advance(it, static_cast<int64_t>(random_.Below(core_->state().jobs.size())));
    wire::Command command{.what = "limit", .job = it->second.name, .timeout_ms = 3000};
    const uint64_t dice = random_.Below(4);
    if (dice < 2) command.bytes = static_cast<int64_t>(50 + random_.Below(500));
    if (dice == 2) command.what = "pause";
    if (dice == 3) command.what = "resume";
    const uint64_t request_id = next_request_++;
    pending_[request_id] = command.bytes.value_or(-1);
    core_->Received(cli_, *wire::EncodeMessage(command, request_id));
  }

  void TakeAnswer(const wire::Frame& frame) {
    const auto message = wire::DecodeMessage(frame);
    ASSERT_TRUE(message.ok());
    const auto* answer = std::get_if<wire::Answer>(&*message);
    auto asked = pending_.find(frame.request_id);
    if (answer == nullptr || asked == pending_.end()) return;
    const int64_t bytes = asked->second;
    pending_.erase(asked);
    if (bytes < 0 || !answer->ok || answer->data.Text("status") == "stale") return;
    promised_[answer->data.Text("job")] = {answer->data.Int("revision"), answer->data.Int("limit"),
                                           answer->data.Text("status") == "applied"};
  }

  void CheckInvariants() {
    std::set<std::string> names;
    for (const auto& [id, job] : core_->state().jobs) {
      ASSERT_TRUE(names.insert(job.name).second) << "two jobs are named " << job.name;
      ASSERT_LE(job.settled_revision, job.revision);
      const auto promise = promised_.find(job.name);
      if (promise == promised_.end()) continue;
      const Promise& told = promise->second;
      ASSERT_GE(job.revision, told.revision) << job.name << ": an answered change is lost";
      if (job.revision == told.revision && told.applied) {
        ASSERT_EQ(job.wanted.limit_bytes, told.limit) << job.name;
      }
    }
    ASSERT_LE(core_->state().jobs.size(), static_cast<size_t>(kJobs))
        << "a job was registered twice";
  }

  struct Promise {
    int64_t revision = 0;
    int64_t limit = 0;
    bool applied = false;
  };

  Random random_;
  SimulatedClock clock_{absl::UnixEpoch() + absl::Hours(1000)};
  MemoryJournal journal_;
  FakeDevice device_;
  std::unique_ptr<Core> core_;
  std::deque<SimJob> jobs_;
  std::map<PeerId, std::unique_ptr<wire::Channel>> daemon_ends_;
  std::vector<PeerId> to_close_;
  PeerId cli_;
  int64_t next_peer_ = 1;
  uint64_t next_request_ = 1;
  std::map<uint64_t, int64_t> pending_;  // request -> bytes, -1 for an order
  std::map<std::string, Promise> promised_;
  bool calm_ = false;
};

TEST_P(Simulation, NoAcknowledgedChangeIsLostAndEverythingSettlesOnceTheNetworkIsCalm) {
  SCOPED_TRACE(testing::Message() << "seed " << GetParam());
  StartDaemon();
  StartJobs();
  for (int step = 0; step < kSteps && !HasFatalFailure(); ++step) {
    calm_ = step >= kSteps / 2;
    clock_.Advance(absl::Milliseconds(static_cast<int64_t>(random_.Below(calm_ ? 400 : 100))));
    for (SimJob& job : jobs_) RunJob(job);
    RunCli();
    RunDaemon();
    CheckInvariants();
  }
  ASSERT_EQ(core_->state().jobs.size(), static_cast<size_t>(kJobs));
  EXPECT_TRUE(core_->state().orders.empty());
  EXPECT_TRUE(core_->state().changes.empty());
  for (const SimJob& job : jobs_) {
    const Job* known = core_->state().FindJob(job.session->name());
    ASSERT_NE(known, nullptr);
    EXPECT_EQ(known->pid, job.pid);
    EXPECT_EQ(known->settled_revision, known->revision) << known->name;
    EXPECT_EQ(known->wanted.limit_bytes, job.limit) << known->name;
    EXPECT_EQ(known->paused, job.paused) << known->name;
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, Simulation, testing::Range<uint64_t>(1, 301));

}  // namespace
}  // namespace tide::coordinator

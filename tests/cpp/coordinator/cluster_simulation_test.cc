// A coordinator, three machines and their users on simulated time: frames are dropped and delayed,
// links cut, machines partitioned, disks full, and everybody is killed now and then.
#include <stdlib.h>

#include <cmath>
#include <map>
#include <memory>

#include "base/random.h"
#include "coordinator/node_agent.h"
#include "cpp/coordinator/fakes.h"
#include "wire/loopback_channel.h"

namespace tide::coordinator {
namespace {

constexpr int kNodes = 3;
constexpr int64_t kDevices = 4;
constexpr int kSteps = 500;
constexpr int kCalmFrom = 350;

struct SimNode {
  std::unique_ptr<NodeAgent> agent;
  std::unique_ptr<wire::Channel> link;
  PeerId peer;
  int64_t incarnation = 0;
  int64_t away_until_ns = 0;  // partitioned or down
};

class ClusterSimulation : public ::testing::TestWithParam<uint64_t>, public Edges {
 protected:
  ClusterSimulation() : random_(GetParam()), nodes_(kNodes) {}

  void SendTo(PeerId peer, const wire::Frame& frame) override {
    if (peer == cli_) return TakeAnswer(frame);
    if (auto it = ends_.find(peer); it != ends_.end()) it->second->Send(frame).IgnoreError();
  }
  void ClosePeer(PeerId peer, const std::string&) override { to_close_.push_back(peer); }
  void Watch(const WatchProcess&) override {}
  void Unwatch(JobId) override {}
  void WriteLanePolicy(int, sched::TurnPolicyId) override {}
  void ReapDeadSlots() override {}
  void StopDaemon(const std::string&) override {}
  bool Alive(int64_t, int64_t) override { return true; }

  const ClusterEngine& engine() const { return *core_->state().cluster.engine; }

  void StartCoordinator() {
    ends_.clear();
    pending_.clear();
    constexpr const char* kPolicies[] = {
        "fifo", "srtf", "dlas-gpu-fixed", "gandiva-fair", "antman", "salus", "afs", "gandiva"};
    ClusterSettings settings{.lease_ms = 3000};
    settings.snapshot_inputs = static_cast<int64_t>(GetParam() % 7);  // 0: never
    settings.options.policy = kPolicies[GetParam() % 8];
    settings.options.min_run_s = GetParam() % 3 == 0 ? 2 : 0;
    core_ = std::make_unique<Core>(Core::Parts{journal_, *this, device_, clock_}, settings);
    ASSERT_TRUE(core_->Start(1).ok());
    cli_ = PeerId(next_peer_++);
    core_->Connected(cli_, 0);
    core_->Received(cli_, *wire::EncodeMessage(wire::Hello{.role = wire::Role::kCli, .pid = 1}));
    ASSERT_TRUE(core_->Flush().ok());
  }

  void Lose(SimNode& node) {
    node.link.reset();
    node.agent->Lost();
  }

  void RunNode(int index) {
    SimNode& node = nodes_[static_cast<size_t>(index)];
    const int64_t now_ns = clock_.MonotonicNanos();
    if (!node.agent) {
      node.agent = std::make_unique<NodeAgent>(NodeOptions{.node = std::to_string(index),
                                                           .devices = kDevices,
                                                           .memory_gib = 16,
                                                           .incarnation = ++node.incarnation});
    }
    if (!calm_ && random_.Below(150) == 0) {  // killed with all its jobs
      node.agent.reset();
      node.link.reset();
      return;
    }
    if (!calm_ && random_.Below(100) == 0)
      node.away_until_ns = now_ns + static_cast<int64_t>(random_.Below(8'000'000'000));
    if (!calm_ && node.away_until_ns > now_ns) return;  // nothing goes in or out
    if (!node.link) return Connect(node);
    if (node.agent->Silent(now_ns)) return Lose(node);
    for (wire::Message& message : node.agent->Tick(now_ns)) {
      if (!node.link->Send(*wire::EncodeMessage(std::move(message))).ok()) return Lose(node);
    }
    while (true) {
      const auto frame = node.link->Receive();
      if (!frame.ok()) return Lose(node);
      if (!*frame) break;
      const auto message = wire::DecodeMessage(**frame);
      ASSERT_TRUE(message.ok());
      // A stream never loses its first frames; this network does, and the refusal starts anew.
      if (std::holds_alternative<wire::Answer>(*message)) return Lose(node);
      for (wire::Message& answer : node.agent->OnMessage(*message, now_ns)) {
        if (!node.link->Send(*wire::EncodeMessage(std::move(answer))).ok()) return Lose(node);
      }
    }
    for (const NodeAgent::Step& step : node.agent->NextSteps()) {
      if (calm_ || random_.Below(3) > 0) node.agent->Took(step.key, step.state);
      ASSERT_LE(node.agent->running_devices(), kDevices) << "a machine runs more than it has";
    }
  }

  void Connect(SimNode& node) {
    wire::LoopbackFaults faults{.seed = random_.Next(), .delay_max = absl::Milliseconds(80)};
    if (!calm_) faults.drop = 0.03, faults.cut = 0.01;
    auto [ours, theirs] = wire::LoopbackPair(clock_, faults);
    node.link = std::move(ours);
    node.peer = PeerId(next_peer_++);
    ends_[node.peer] = std::move(theirs);
    core_->Connected(node.peer, 0, /*remote=*/true);
    for (wire::Message& message : node.agent->Connected(clock_.MonotonicNanos())) {
      if (!node.link->Send(*wire::EncodeMessage(std::move(message))).ok()) return Lose(node);
    }
  }

  void RunCoordinator() {
    for (auto it = ends_.begin(); it != ends_.end();) {
      auto frame = it->second->Receive();
      while (frame.ok() && *frame) {
        core_->Received(it->first, **frame);
        frame = it->second->Receive();
      }
      if (!frame.ok()) core_->Closed(it->first);
      it = frame.ok() ? std::next(it) : ends_.erase(it);
    }
    core_->RunTick();
    if (!calm_ && random_.Below(80) == 0) return StartCoordinator();  // before anything is kept
    if (!calm_ && random_.Below(100) == 0)
      journal_.fail = absl::ResourceExhaustedError("disk full");
    const bool kept = core_->Flush().ok();
    journal_.fail = absl::OkStatus();
    if (!kept) return StartCoordinator();
    for (const PeerId& peer : std::exchange(to_close_, {})) {
      core_->Closed(peer);
      ends_.erase(peer);
    }
  }

  void Ask(wire::Message message, const std::string& key, bool submit) {
    const uint64_t id = next_request_++;
    pending_[id] = {key, submit};
    core_->Received(cli_, *wire::EncodeMessage(std::move(message), id));
  }

  void RunUsers(int step) {
    if (step < kCalmFrom && random_.Below(4) == 0) {
      const std::string key = std::to_string(step);
      Ask(wire::Submit{.key = key,
                       .user = std::to_string(random_.Below(3)),
                       .devices = 1 + static_cast<int64_t>(random_.Below(6)),
                       .estimate_s = 1.0 + static_cast<double>(random_.Below(20)),
                       .tier = static_cast<wire::Tier>(random_.Below(3)),
                       .devices_max = step % 4 == 0 ? 8 : 0,
                       .movable = step % 4 != 0 && step % 2 == 0,
                       .profile = AnyProfile()},
          key, true);
    }
    if (random_.Below(40) == 0) {
      Ask(wire::Drain{.node = std::to_string(random_.Below(kNodes)), .undo = random_.Below(2) == 0},
          "", false);
    }
    if (step < kCalmFrom) RunMoves();
    for (const JobIndex index : std::set<JobIndex>(engine().open_jobs())) {
      const bool runs = engine().view(index).state == sched::JobState::kRunning;
      const std::string& key = engine().job(index).spec.key;
      if (engine().job(index).withdrawn || random_.Below(runs ? 25 : 400) != 0) continue;
      Ask(wire::Finish{.key = key}, key, false);
    }
  }

  /// What is known of a job, of most something.
  std::optional<wire::Value> AnyProfile() {
    if (random_.Below(4) == 0) return std::nullopt;
    sched::JobProfile profile;
    profile.busy = 0.25 * static_cast<double>(1 + random_.Below(4));
    profile.memory_gib = static_cast<double>(1 + random_.Below(8));
    for (int size = 1; size <= 8; ++size) profile.speed.push_back(std::sqrt(size));
    return ProfileToValue(profile);
  }

  /// What `tide move` asks for and what `tide submit` answers, in any order, also twice.
  void RunMoves() {
    for (const JobIndex index : std::set<JobIndex>(engine().open_jobs())) {
      const ClusterJob& job = engine().job(index);
      const bool moves = !job.target.empty() || job.away;
      if (!job.spec.movable || random_.Below(moves ? 5 : 30) != 0) continue;
      wire::Move move = {.key = job.spec.key, .revision = job.revision, .reason = "chance"};
      if (moves || random_.Below(4) == 0)
        move.step = static_cast<wire::MoveStep>(1 + random_.Below(3));
      if (random_.Below(2) == 0) move.to = std::to_string(random_.Below(kNodes));
      Ask(std::move(move), "", false);
    }
  }

  void TakeAnswer(const wire::Frame& frame) {
    const auto asked = pending_.find(frame.request_id);
    const auto message = wire::DecodeMessage(frame);
    const auto* answer = message.ok() ? std::get_if<wire::Answer>(&*message) : nullptr;
    if (answer == nullptr || asked == pending_.end()) return;
    const auto [key, submit] = asked->second;
    pending_.erase(asked);
    if (!answer->ok || key.empty()) return;
    submit ? (void)promised_.insert(key) : (void)promised_.erase(key);
  }

  void CheckInvariants() {
    std::vector<int> used(kNodes, 0);
    std::map<int, Placement> shared;  // by holding; its devices count once
    for (const JobIndex index : engine().open_jobs()) {
      const ClusterJob& job = engine().job(index);
      const bool runs = engine().view(index).state == sched::JobState::kRunning;
      ASSERT_EQ(runs, job.devices() >= job.spec.devices) << job.spec.key << ": a part of a gang";
      const auto [first, is_new] =
          shared.try_emplace(runs ? engine().view(index).holding : -1, job.placement);
      if (runs && !is_new) {
        ASSERT_EQ(first->second, job.placement) << job.spec.key;
      }
      for (const Placement* placement : {&job.placement, &job.target}) {
        if (placement == &job.placement && runs && !is_new) continue;
        for (const DeviceShare& share : *placement)
          used[static_cast<size_t>(share.node.value())] += share.devices;
      }
    }
    for (const int devices : used) ASSERT_LE(devices, kDevices) << "granted twice";
    for (const std::string& key : promised_) {
      // An end whose answer was lost is an end.
      if (engine().Find(key).value() >= 0) continue;
      const bool asked_to_end =
          std::any_of(pending_.begin(), pending_.end(),
                      [&](const auto& entry) { return entry.second.first == key; });
      ASSERT_TRUE(asked_to_end || ended_.contains(key)) << "a submitted job is lost: " << key;
    }
  }

  /// What is asked to end may end without our hearing of it.
  void NoteEnds() {
    for (const auto& [id, asked] : pending_) {
      if (!asked.second) ended_.insert(asked.first);
    }
  }

  /// Of a node, and kept for jobs that have not come yet.
  int Kept(const std::string& name) const {
    int kept = 0;
    for (const JobIndex index : engine().open_jobs()) {
      for (const DeviceShare& share : engine().job(index).target)
        kept += engine().devices().nodes()[share.node.value()].name == name ? share.devices : 0;
    }
    return kept;
  }

  void CheckCalm() {
    for (const SimNode& node : nodes_) {
      ASSERT_TRUE(node.agent && node.agent->connected());
      const std::string& name = node.agent->options().node;
      const auto* known = engine().devices().Find(name);
      ASSERT_TRUE(known != nullptr && known->works);
      EXPECT_EQ(node.agent->running_devices(), known->used - Kept(name)) << "node " << name;
    }
    for (const JobIndex index : engine().open_jobs()) {
      const ClusterJob& job = engine().job(index);
      for (const DeviceShare& share : job.placement) {
        const std::string& name = engine().devices().nodes()[share.node.value()].name;
        EXPECT_TRUE(nodes_[std::stoul(name)].agent->MayRun(job.spec.key)) << job.spec.key;
      }
    }
  }

  Random random_;
  SimulatedClock clock_{absl::UnixEpoch() + absl::Hours(1000)};
  MemoryJournal journal_;
  FakeDevice device_;
  std::unique_ptr<Core> core_;
  std::vector<SimNode> nodes_;
  std::map<PeerId, std::unique_ptr<wire::Channel>> ends_;
  std::vector<PeerId> to_close_;
  PeerId cli_;
  int64_t next_peer_ = 1;
  uint64_t next_request_ = 1;
  std::map<uint64_t, std::pair<std::string, bool>>
      pending_;  // request -> key, whether a submission
  std::set<std::string> promised_, ended_;
  bool calm_ = false;
};

TEST_P(ClusterSimulation, NothingIsLostOrGrantedTwiceAndAllSettlesInACalm) {
  SCOPED_TRACE(::testing::Message() << "seed " << GetParam());
  StartCoordinator();
  for (int step = 0; step < kSteps && !HasFatalFailure(); ++step) {
    calm_ = step >= kCalmFrom;
    if (step == kCalmFrom) {  // the links of before go on losing frames: new ones do not
      for (SimNode& node : nodes_) {
        if (node.agent) Lose(node);
      }
    }
    clock_.Advance(absl::Milliseconds(static_cast<int64_t>(random_.Below(200))));
    for (int node = 0; node < kNodes; ++node) RunNode(node);
    if (!calm_) RunUsers(step);
    NoteEnds();
    RunCoordinator();
    CheckInvariants();
  }
  if (!HasFatalFailure()) CheckCalm();
  for (int node = 0; node < kNodes; ++node)
    Ask(wire::Drain{.node = std::to_string(node), .undo = true}, "", false);
  // Every job that is left runs to its end when each ends as soon as it runs.
  for (int round = 0; round < 2000 && !engine().open_jobs().empty(); ++round) {
    clock_.Advance(absl::Milliseconds(500));
    for (int node = 0; node < kNodes; ++node) RunNode(node);
    for (const JobIndex index : std::set<JobIndex>(engine().open_jobs())) {
      const std::string key = engine().job(index).spec.key;
      if (engine().view(index).state == sched::JobState::kRunning)
        Ask(wire::Finish{.key = key}, key, false);
    }
    RunCoordinator();
  }
  EXPECT_TRUE(engine().open_jobs().empty()) << engine().open_jobs().size() << " never ended";
}

/// 200 seeds in continuous integration; TIDE_TEST_SEEDS=100000 for a night.
uint64_t SeedsEnd() {
  const char* const wanted = getenv("TIDE_TEST_SEEDS");
  return 1 + (wanted != nullptr ? strtoull(wanted, nullptr, 10) : 200);
}

INSTANTIATE_TEST_SUITE_P(Seeds, ClusterSimulation, ::testing::Range<uint64_t>(1, SeedsEnd()));

}  // namespace
}  // namespace tide::coordinator

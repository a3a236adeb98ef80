// Edges of the daemon for tests: a journal in memory, a device table as a value, peers as queues.
#pragma once

#include <deque>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/core.h"
#include "gtest/gtest.h"

namespace tide::coordinator {

/// Keeps what was committed, as rows: a new Core replays it as after a kill.
class MemoryJournal final : public Journal {
 public:
  absl::StatusOr<JournalContent> Load() override {
    JournalContent content = meta_;
    for (const auto& [id, value] : jobs_) content.jobs.push_back(JobFromValue(value));
    content.events = events_;
    content.next_seq = events_.empty() ? 1 : events_.back().seq + 1;
    return content;
  }
  absl::Status Commit(const JournalBatch& batch) override {
    if (!fail.ok()) return fail;
    ++commits;
    meta_.generation = batch.generation;
    meta_.next_job_id = batch.next_job_id;
    meta_.next_order_id = batch.next_order_id;
    for (const Job& job : batch.jobs) jobs_[job.id] = wire::Value(JobToValue(job));
    for (const JobId& id : batch.forgotten) jobs_.erase(id);
    for (const auto& input : batch.inputs) meta_.cluster.inputs.push_back(input);
    if (batch.snapshot) Keep(*batch.snapshot);
    if (batch.log_bytes >= 0) meta_.log_bytes = batch.log_bytes;
    events_.insert(events_.end(), batch.events.begin(), batch.events.end());
    return absl::OkStatus();
  }
  absl::Status fail;
  int commits = 0;
  /// What a cluster has told, as it lies there: tests break it.
  ClusterHistory& cluster() { return meta_.cluster; }

 private:
  void Keep(const ClusterSnapshot& snapshot) {
    auto& [snapshots, inputs, upgraded] = meta_.cluster;
    std::erase_if(snapshots, [&](const auto& old) { return old.seq == snapshot.seq; });
    snapshots.insert(snapshots.begin(), snapshot);
    if (snapshots.size() < 2) return;
    snapshots.resize(2);
    std::erase_if(inputs, [&](const auto& input) { return input.first <= snapshots[1].seq; });
  }

  JournalContent meta_;
  std::map<JobId, wire::Value> jobs_;
  std::vector<wire::Event> events_;
};

class FakeDevice final : public DeviceSource {
 public:
  DeviceView Read() override { return view; }
  SlotView& Add(int index, int64_t pid, std::string name) {
    view.present = true;
    if (view.lanes.empty()) view.lanes = {LaneView{.id = 0}, LaneView{.id = 1}};
    SlotView slot;
    slot.index = index;
    slot.pid = pid;
    slot.start_time = static_cast<uint64_t>(pid * 10);
    slot.name = std::move(name);
    view.slots.push_back(std::move(slot));
    return view.slots.back();
  }
  DeviceView view;
};

class FakeEdges final : public Edges {
 public:
  void SendTo(PeerId peer, const wire::Frame& frame) override { sent[peer].push_back(frame); }
  void ClosePeer(PeerId peer, const std::string&) override { closed.insert(peer); }
  void Watch(const WatchProcess& process) override { watched.insert(process.pid); }
  void Unwatch(JobId) override {}
  void WriteLanePolicy(int lane, sched::TurnPolicyId policy) override { policies[lane] = policy; }
  void ReapDeadSlots() override { ++reaps; }
  void StopDaemon(const std::string&) override { stopped = true; }
  bool Alive(int64_t pid, int64_t) override { return !dead.contains(pid); }

  std::map<PeerId, std::deque<wire::Frame>> sent;
  std::set<PeerId> closed;
  std::set<int64_t> watched, dead;
  std::map<int, sched::TurnPolicyId> policies;
  int reaps = 0;
  bool stopped = false;
};

/// A core with fakes, and the words to talk with it. Jobs are processes of pid N with start time 10
/// N.
class CoreTest : public ::testing::Test {
 protected:
  CoreTest() { Restart(); }

  /// Kills the daemon and starts another one on the same journal.
  void Restart() {
    auto fresh = std::make_unique<FakeEdges>();
    if (edges_) fresh->dead = edges_->dead;
    edges_ = std::move(fresh);
    core_ = std::make_unique<Core>(Core::Parts{journal_, *edges_, device_, clock_});
    ASSERT_TRUE(core_->Start(99).ok());
  }
  PeerId Connect(wire::Role role, int64_t pid) {
    const PeerId peer(next_peer_++);
    core_->Connected(peer, pid);
    Say(peer, wire::Hello{.role = role, .pid = pid});
    return peer;
  }
  void Say(PeerId peer, wire::Message message, uint64_t request_id = 0) {
    core_->Received(peer, *wire::EncodeMessage(std::move(message), request_id));
    ASSERT_TRUE(core_->Flush().ok());
  }
  template <typename M>
  std::optional<M> Take(PeerId peer) {
    std::deque<wire::Frame>& frames = edges_->sent[peer];
    while (!frames.empty()) {
      const auto message = wire::DecodeMessage(frames.front());
      frames.pop_front();
      EXPECT_TRUE(message.ok()) << message.status();
      if (const M* wanted = std::get_if<M>(&*message)) return *wanted;
    }
    return std::nullopt;
  }
  PeerId StartJob(const std::string& name, int64_t pid, wire::Register registration = {}) {
    const PeerId peer = Connect(wire::Role::kJob, pid);
    registration.name = name;
    registration.pid = pid;
    registration.start_time = pid * 10;
    if (registration.token == 0) registration.token = pid;
    Say(peer, registration);
    return peer;
  }
  PeerId Cli() {
    const PeerId peer = Connect(wire::Role::kCli, 1);
    EXPECT_TRUE(Take<wire::Welcome>(peer).has_value());
    return peer;
  }
  wire::Answer Ask(wire::Message message) {
    const PeerId peer = Cli();
    Say(peer, std::move(message), 3);
    return Take<wire::Answer>(peer).value_or(
        wire::Answer{.ok = false, .error = wire::AnswerError{"none", "no answer came", ""}});
  }
  void Pass(absl::Duration time) {
    clock_.Advance(time);
    core_->RunTick();
    ASSERT_TRUE(core_->Flush().ok());
  }
  void End(const std::string& name, ExitStatus status) {
    core_->ProcessEnded(core_->state().FindJob(name)->id, status);
    ASSERT_TRUE(core_->Flush().ok());
  }
  std::string LastEvent() const { return core_->state().events.back().text; }

  SimulatedClock clock_{absl::UnixEpoch() + absl::Hours(24 * 365)};
  MemoryJournal journal_;
  FakeDevice device_;
  std::unique_ptr<FakeEdges> edges_;
  std::unique_ptr<Core> core_;
  int64_t next_peer_ = 1;
};

}  // namespace tide::coordinator

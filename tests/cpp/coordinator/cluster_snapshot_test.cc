// A cluster that was saved and loaded decides as one that never stopped, under every policy.
#include <algorithm>

#include "base/random.h"
#include "coordinator/cluster.h"
#include "coordinator/cluster_engine.h"
#include "gtest/gtest.h"

namespace tide::coordinator {
namespace {

using sched::JobState;

constexpr int kInputs = 700;

ClusterOptions OptionsOf(const std::string& policy, uint64_t seed) {
  ClusterOptions options;
  options.policy = policy;
  options.policy_options.queue_limits_s = {200, 900};
  options.policy_options.starvation_knob = 2;
  if (seed % 2 == 0) options.min_run_s = 40;
  if (seed % 2 == 1) options.policy_options.profiler_gpus = 3;
  options.policy_options.profiler_limit_s = 50;
  if (seed % 3 == 0) options.fair_share = true;
  options.users = {{"u0", {.quota_devices = seed % 4 == 0 ? 6 : 0, .weight = 2}}};
  return options;
}

/// What a cluster may be told, drawn while an engine is told it.
class History {
 public:
  History(const ClusterOptions& options, uint64_t seed) : random_(seed) {
    auto made = ClusterEngine::Make(options);
    if (!made.ok()) return;
    engine_ = *std::move(made);
    for (int node = 0; node < 3; ++node)
      Tell({.kind = ClusterInputKind::kNode, .node = Name("n", node), .devices = 4});
    while (inputs_.size() < kInputs) Draw();
  }

  bool made() const { return engine_ != nullptr; }
  const std::vector<ClusterInput>& inputs() const { return inputs_; }
  const std::string& log() const { return log_; }
  ClusterEngine& engine() { return *engine_; }
  int moves() const { return moves_; }

 private:
  static std::string Name(const char* prefix, uint64_t number) {
    return prefix + std::to_string(number);
  }

  void Tell(ClusterInput input) {
    input.now_s = now_s_;
    ASSERT_TRUE(engine_->Apply(input).ok());
    log_ += engine_->TakeLog();
    inputs_.push_back(std::move(input));
  }

  void Draw() {
    now_s_ += static_cast<double>(random_.Below(30)) * 0.5;
    const uint64_t what = random_.Below(20);
    if (what < 6) {
      Submit();
    } else if (what < 10) {
      End();
    } else if (what == 10) {
      const uint64_t node = random_.Below(3);
      Tell({.kind = ClusterInputKind::kNode,
            .node = Name("n", node),
            .devices = 3 + static_cast<int>(random_.Below(3)),
            .works = random_.Below(3) > 0});
    } else if (what == 11 && random_.Below(4) == 0) {
      const double from_s = now_s_ + static_cast<double>(random_.Below(200));
      Tell({.kind = ClusterInputKind::kReserve,
            .reservation = {.name = Name("r", random_.Below(2)),
                            .user = Name("u", random_.Below(3)),
                            .devices = static_cast<int>(random_.Below(4)),
                            .from_s = from_s,
                            .to_s = from_s + 100}});
    } else if (what == 12) {
      Move();
    } else if (what == 13 && random_.Below(2) == 0) {
      Tell({.kind = ClusterInputKind::kDrain,
            .node = Name("n", random_.Below(3)),
            .drains = random_.Below(3) == 0});
    } else {
      Tell({.kind = ClusterInputKind::kDecide});
    }
  }

  /// One step of a movable job: what is refused is left out.
  void Move() {
    for (const JobIndex index : std::set<JobIndex>(engine_->open_jobs())) {
      const ClusterJob& job = engine_->job(index);
      if (!job.spec.movable || random_.Below(2) == 0) continue;
      ClusterInput input = {.kind = ClusterInputKind::kMove, .now_s = now_s_};
      input.spec.key = job.spec.key;
      input.step = static_cast<wire::MoveStep>(random_.Below(4));
      if (random_.Below(2) == 0) input.node = Name("n", random_.Below(3));
      input.revision = job.revision;
      input.reason = "chance";
      if (!engine_->Check(input).ok()) continue;
      ++moves_;
      Tell(std::move(input));
    }
  }

  void Submit() {
    if (engine_->open_jobs().size() > 40) return;
    JobSpec spec{.key = Name("j", next_job_++)};
    spec.user = Name("u", random_.Below(3));
    spec.group = Name("g", random_.Below(4));
    spec.devices = 1 + static_cast<int>(random_.Below(5));
    spec.estimate_s = random_.Below(8) == 0 ? 0 : 5.0 * static_cast<double>(1 + random_.Below(80));
    spec.tier = static_cast<sched::JobTier>(random_.Below(3));
    if (random_.Below(3) == 0) spec.devices_max = spec.devices + 3;
    spec.movable = spec.devices_max == 0 && random_.Below(2) == 0;
    if (random_.Below(3) == 0)
      spec.deadline_s = now_s_ + 10.0 * static_cast<double>(random_.Below(200));
    Tell({.kind = ClusterInputKind::kSubmit, .spec = spec});
  }

  void End() {
    std::vector<std::string> keys;
    for (const JobIndex index : engine_->open_jobs()) {
      if (engine_->job(index).withdrawn) continue;
      const bool runs = engine_->view(index).state == JobState::kRunning;
      if (runs || random_.Below(20) == 0) keys.push_back(engine_->job(index).spec.key);
    }
    if (keys.empty()) return;
    Tell({.kind = ClusterInputKind::kFinish, .spec = {.key = keys[random_.Below(keys.size())]}});
  }

  Random random_;
  std::unique_ptr<ClusterEngine> engine_;
  std::vector<ClusterInput> inputs_;
  std::string log_;
  double now_s_ = 0;
  uint64_t next_job_ = 0;
  int moves_ = 0;
};

class SnapshotOfPolicy : public ::testing::TestWithParam<const char*> {};

TEST_P(SnapshotOfPolicy, RestartsAtEveryKthInputGiveTheSameLogAndTheSameState) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    const ClusterOptions options = OptionsOf(GetParam(), seed);
    History history(options, seed);
    if (!history.made()) GTEST_SKIP() << GetParam() << " cannot be served here";
    ASSERT_TRUE(history.engine().has_snapshot());
    ASSERT_GT(history.log().size(), 2000u);
    ASSERT_GT(history.moves(), 10);
    const std::string last = history.engine().Snapshot();
    for (const size_t every : {1, 2, 7, 60, 350}) {
      SCOPED_TRACE(testing::Message() << "seed " << seed << ", restarts every " << every);
      auto engine = *ClusterEngine::Make(options);
      std::string log;
      for (size_t i = 0; i < history.inputs().size(); ++i) {
        ASSERT_TRUE(engine->Apply(history.inputs()[i]).ok()) << "input " << i;
        log += engine->TakeLog();
        if (i % every != 0) continue;
        auto restored = ClusterEngine::Restore(options, engine->Snapshot());
        ASSERT_TRUE(restored.ok()) << restored.status() << " at input " << i;
        ASSERT_FALSE((*restored)->retold());
        engine = *std::move(restored);
      }
      ASSERT_TRUE(log == history.log()) << "the logs differ";
      EXPECT_TRUE(engine->Snapshot() == last) << "the states differ";
      EXPECT_EQ(engine->running_jobs(), history.engine().running_jobs());
    }
  }
}

// What docs/reference/cluster.md says of the size.
TEST_P(SnapshotOfPolicy, AnOpenJobTakesAtMost350BytesAndOneThatHasEndedAtMost9) {
  const ClusterOptions options{.policy = GetParam()};
  auto made = ClusterEngine::Make(options);
  if (!made.ok()) GTEST_SKIP() << GetParam() << " cannot be served here";
  ClusterEngine& engine = **made;
  double now_s = 0;
  const auto tell = [&](ClusterInputKind kind, int job) {
    const JobSpec spec = {.key = "experiment-" + std::to_string(job),
                          .user = "user" + std::to_string(job % 20),
                          .group = "resnet50",
                          .estimate_s = 3600};
    ASSERT_TRUE(engine.Apply({.kind = kind, .now_s = now_s, .spec = spec}).ok());
    engine.TakeLog();
  };
  ASSERT_TRUE(engine.Apply({.kind = ClusterInputKind::kNode, .node = "n", .devices = 8}).ok());
  const auto end_jobs = [&](int from, int to) {
    for (int job = from; job < to; ++job, now_s += 2000) {  // longer than any round
      tell(ClusterInputKind::kSubmit, job);
      tell(ClusterInputKind::kDecide, job);
      tell(ClusterInputKind::kFinish, job);
    }
    tell(ClusterInputKind::kDecide, 0);
    return static_cast<double>(engine.Snapshot().size());
  };
  const double few = end_jobs(0, 100);
  const double many = end_jobs(100, 600);
  EXPECT_LE((many - few) / 500, 9);
  for (int job = 1000; job < 1500; ++job) tell(ClusterInputKind::kSubmit, job);
  tell(ClusterInputKind::kDecide, 0);
  EXPECT_LE((static_cast<double>(engine.Snapshot().size()) - many) / 500, 350);
}

std::vector<const char*> Names() {
  std::vector<const char*> names;
  for (const sched::ClusterPolicyInfo& info : sched::ClusterPolicies()) names.push_back(info.name);
  return names;
}

INSTANTIATE_TEST_SUITE_P(Policies, SnapshotOfPolicy, testing::ValuesIn(Names()),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(ClusterSnapshotTest, AnyDamageIsAnErrorAndNeverAnotherState) {
  History history(OptionsOf("gandiva-fair", 1), 1);
  const std::string good = history.engine().Snapshot();
  Random random(3);
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = good;
    if (random.Below(2) == 0) {
      bytes.resize(random.Below(bytes.size()));
    } else {
      bytes[random.Below(bytes.size())] ^= static_cast<char>(1 + random.Below(255));
    }
    const auto restored = ClusterEngine::Restore(OptionsOf("gandiva-fair", 1), bytes);
    ASSERT_FALSE(restored.ok());
  }
  EXPECT_EQ(ClusterEngine::Restore(OptionsOf("gandiva-fair", 1), good + "x").status().code(),
            absl::StatusCode::kDataLoss);
}

TEST(ClusterSnapshotTest, AnotherVersionIsRefusedWithWordsAndNotTakenForDamage) {
  History history(OptionsOf("fifo", 1), 1);
  std::string bytes = history.engine().Snapshot();
  const size_t version = 1 + std::string("tide-cluster").size();  // behind the length and the magic
  ASSERT_EQ(bytes[version], 6) << "zigzag of 3";
  bytes[version] = 8;
  const auto restored = ClusterEngine::Restore(OptionsOf("fifo", 1), bytes);
  EXPECT_EQ(restored.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(restored.status().message(),
            "the journal's snapshot of the cluster has version 4, this tided reads 1 to 3: "
            "start the one that wrote it");
}

TEST(ClusterSnapshotTest, AnotherPolicyIsToldOfAllOpenJobsAndStartsThemWhereTheyRan) {
  for (const char* policy : {"fifo", "srtf", "dlas-gpu-fixed", "themis", "edf-admit"}) {
    SCOPED_TRACE(policy);
    History history(OptionsOf("fjf", 1), 5);
    ClusterEngine& before = history.engine();
    auto after = *ClusterEngine::Restore(OptionsOf(policy, 1), before.Snapshot());
    EXPECT_TRUE(after->retold());
    EXPECT_EQ(after->running_jobs(), 0u);
    EXPECT_EQ(after->devices().free(), after->devices().working());
    size_t open = 0;
    for (const JobIndex index : before.open_jobs()) open += !before.job(index).withdrawn;
    EXPECT_EQ(after->open_jobs().size(), open);
    for (const char* node : {"n0", "n1", "n2"}) {  // whatever chance has made of them
      for (const auto kind : {ClusterInputKind::kNode, ClusterInputKind::kDrain}) {
        const ClusterInput input = {
            .kind = kind, .now_s = after->now_s(), .node = node, .devices = 5, .drains = false};
        ASSERT_TRUE(after->Apply(input).ok());
      }
    }
    ASSERT_TRUE(after->Apply({.kind = ClusterInputKind::kDecide, .now_s = after->now_s()}).ok());
    EXPECT_GT(after->running_jobs(), 0u);
    for (const JobIndex index : after->open_jobs()) {
      if (after->view(index).state != JobState::kRunning) continue;
      EXPECT_EQ(after->job(index).devices() >= after->job(index).spec.devices, true);
    }
  }
}

/// A policy that was written without a thought of snapshots.
class Forgetful final : public sched::ClusterPolicy {
 public:
  std::unique_ptr<sched::ClusterPolicy> Clone() const override {
    return std::make_unique<Forgetful>();
  }
  sched::ClusterDecision Decide(const sched::ClusterInput&) override { return {}; }
};

TEST(ClusterSnapshotTest, APolicyWhoseStateCannotBeSavedKeepsTheJournalWhole) {
  ClusterState cluster;
  cluster.settings.snapshot_inputs = 10;
  cluster.next_input = 1000;
  cluster.engine = *ClusterEngine::MakeWith({}, std::make_unique<Forgetful>());
  EXPECT_FALSE(cluster.engine->has_snapshot());
  EXPECT_FALSE(TakeClusterSnapshot(cluster).has_value());
  cluster.engine = *ClusterEngine::Make({});
  EXPECT_TRUE(TakeClusterSnapshot(cluster).has_value());
  EXPECT_FALSE(TakeClusterSnapshot(cluster).has_value()) << "nothing has come since";
}

TEST(ClusterSnapshotTest, WhatHasEndedTakesNoRoom) {
  ClusterOptions options{.policy = "dlas-gpu-fixed"};
  auto engine = *ClusterEngine::Make(options);
  double now_s = 0;
  const auto tell = [&](ClusterInput input) {
    input.now_s = now_s;
    ASSERT_TRUE(engine->Apply(input).ok());
    engine->TakeLog();
  };
  tell({.kind = ClusterInputKind::kNode, .node = "n", .devices = 4});
  std::vector<size_t> sizes;
  for (int job = 0; job < 20'000; ++job, ++now_s) {
    const std::string key = std::to_string(job);
    tell({.kind = ClusterInputKind::kSubmit, .spec = {.key = key, .estimate_s = 1}});
    tell({.kind = ClusterInputKind::kDecide});
    tell({.kind = ClusterInputKind::kFinish, .spec = {.key = key}});
    if (job % 5000 == 4999) sizes.push_back(engine->Snapshot().size());
  }
  EXPECT_LE(sizes.back(), sizes.front() + 16) << "only numbers have grown";
  EXPECT_LT(sizes.back(), 1000u);
}

}  // namespace
}  // namespace tide::coordinator

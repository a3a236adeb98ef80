// The cluster's engine: gangs, gates, the filter, elastic jobs, lost nodes, previews.
#include "base/random.h"
#include "cpp/coordinator/engine_fixture.h"

namespace tide::coordinator {
namespace {

using sched::JobState;

TEST_F(ClusterEngineTest, AGangGetsAllOfItsDevicesOnOneNodeOrNone) {
  Make();
  Node("a", 4);
  Node("b", 8);
  Submit({.key = "big", .devices = 6});
  Submit({.key = "small", .devices = 4});
  Submit({.key = "late", .devices = 4});
  Decide();
  EXPECT_EQ(Job("big").placement, (Placement{{NodeIndex(1), 6}}));
  EXPECT_EQ(Job("small").placement, (Placement{{NodeIndex(0), 4}}));
  EXPECT_FALSE(Runs("late"));
  EXPECT_TRUE(Job("late").placement.empty());
  Finish("big");
  Decide();
  EXPECT_TRUE(Runs("late"));
}

TEST_F(ClusterEngineTest, AGangTooLargeForTheClusterHoldsUpNobodyAndSaysWhy) {
  Make();
  Node("a", 4);
  Submit({.key = "huge", .devices = 64});
  Submit({.key = "one", .devices = 1});
  Decide();
  EXPECT_TRUE(Runs("one"));
  EXPECT_EQ(Why("huge"), "it asks for 64 devices at once; 4 work in the cluster");
  Node("b", 100);
  Decide();
  EXPECT_TRUE(Runs("huge")) << "more nodes have come";
}

TEST_F(ClusterEngineTest, AJobThatIsPreemptedGoesBackToItsOwnNode) {
  Make({.policy = "srtf"});
  Node("a", 2);
  Node("b", 2);
  Submit({.key = "long", .devices = 2, .estimate_s = 1000});
  Submit({.key = "other", .devices = 2, .estimate_s = 2000});
  Decide();
  const Placement before = Job("other").placement;
  now_s_ = 10;
  Submit({.key = "short", .devices = 2, .estimate_s = 5});
  Decide();
  EXPECT_FALSE(Runs("other"));
  EXPECT_EQ(Job("short").placement, before);
  now_s_ = 15;
  Finish("short");
  Decide();
  EXPECT_EQ(Job("other").placement, before);
}

TEST_F(ClusterEngineTest, TheFilterPutsAPreemptionOffUntilTheJobHasRunLongEnough) {
  Make({.policy = "srtf", .min_run_s = 60});
  Node("a", 2);
  Submit({.key = "long", .devices = 2, .estimate_s = 1000});
  Decide();
  now_s_ = 10;
  Submit({.key = "short", .devices = 2, .estimate_s = 5});
  Decide();
  EXPECT_TRUE(Runs("long"));
  ASSERT_EQ(changes_.size(), 1u);
  EXPECT_EQ(changes_[0].kind, ChangeKind::kPutOff);
  EXPECT_EQ(changes_[0].reason,
            "preempting it was put off: it started at 0 s and runs for at least 60 s");
  EXPECT_EQ(engine_->wake_s(), 60);
  now_s_ = 30;
  Decide();
  EXPECT_TRUE(changes_.empty()) << "it is said once";
  now_s_ = 60;
  Decide();
  EXPECT_TRUE(Runs("short"));
  EXPECT_FALSE(Runs("long"));
}

TEST_F(ClusterEngineTest, AQuotaBoundsAUserAndNotTheOthers) {
  Make({.users = {{"ann", {.quota_devices = 2}}}});
  Node("a", 8);
  for (const char* key : {"ann1", "ann2", "ann3"}) Submit({.key = key, .user = "ann"});
  Submit({.key = "bob", .user = "bob", .devices = 4});
  Decide();
  EXPECT_TRUE(Runs("ann1") && Runs("ann2") && Runs("bob"));
  EXPECT_FALSE(Runs("ann3"));
  EXPECT_EQ(Why("ann3"), "the quota of ann is 2 devices, 2 are taken, it asks for 1");
  Finish("ann1");
  Decide();
  EXPECT_TRUE(Runs("ann3"));
}

TEST_F(ClusterEngineTest, FairSharesFollowWeightAndUseThatHalvesWithTime) {
  Make({.fair_share = true, .half_life_s = 100, .users = {{"ann", {.weight = 3}}}});
  Node("a", 1);
  for (int i = 0; i < 40; ++i) {
    Submit({.key = "ann" + std::to_string(i), .user = "ann"});
    Submit({.key = "bob" + std::to_string(i), .user = "bob"});
  }
  int of_ann = 0;
  for (int turn = 0; turn < 40; ++turn, now_s_ += 10) {
    Decide();
    for (const JobIndex index : std::set<JobIndex>(engine_->open_jobs())) {
      if (engine_->view(index).state != JobState::kRunning) continue;
      if (turn > 5) of_ann += engine_->job(index).spec.user == "ann";
      now_s_ += 10;
      Finish(engine_->job(index).spec.key);
    }
  }
  EXPECT_NEAR(of_ann, 34 * 3 / 4, 3);
  const ClusterGate::User& bob = engine_->gate().users()[1];
  const double used = engine_->gate().UsedAt(bob, now_s_);
  EXPECT_NEAR(engine_->gate().UsedAt(bob, now_s_ + 100), used / 2, 1e-9);
}

TEST_F(ClusterEngineTest, AReservationIsKeptFreeAndShortJobsRunOnItBefore) {
  Make();
  Node("a", 4);
  Apply({.kind = ClusterInputKind::kReserve,
         .reservation = {.name = "exam", .user = "ann", .devices = 3, .from_s = 100, .to_s = 200}});
  Submit({.key = "long", .devices = 2, .estimate_s = 500});
  Submit({.key = "short", .devices = 3, .estimate_s = 90});
  Decide();
  EXPECT_FALSE(Runs("long"));
  EXPECT_EQ(Why("long"), "3 of 4 devices are reserved for others before it would end");
  EXPECT_TRUE(Runs("short"));
  now_s_ = 90;
  Finish("short");
  Decide();
  now_s_ = 100;
  Submit({.key = "exam1", .user = "ann", .devices = 3, .estimate_s = 50});
  Decide();
  EXPECT_TRUE(Runs("exam1"));
  EXPECT_FALSE(Runs("long"));
  now_s_ = 200;
  Finish("exam1");
  Decide();
  EXPECT_TRUE(Runs("long"));
}

TEST_F(ClusterEngineTest, ABeginningReservationTakesTheDevicesOfWhoLosesLeast) {
  Make();
  Node("a", 4);
  Submit({.key = "old", .devices = 2, .estimate_s = 0});
  Decide();
  now_s_ = 50;
  Submit({.key = "young", .devices = 2, .estimate_s = 0});
  Decide();
  Apply({.kind = ClusterInputKind::kReserve,
         .reservation = {.name = "exam", .user = "ann", .devices = 2, .from_s = 60, .to_s = 90}});
  now_s_ = 60;
  Decide();
  EXPECT_TRUE(Runs("old"));
  EXPECT_FALSE(Runs("young"));
}

TEST_F(ClusterEngineTest, AnElasticJobTakesIdleDevicesAndGivesThemBack) {
  Make();
  Node("a", 8);
  Submit({.key = "elastic", .devices = 2, .devices_max = 7});
  Decide();
  EXPECT_EQ(Job("elastic").devices(), 7);
  const int64_t revision = Job("elastic").revision;
  Submit({.key = "gang", .devices = 4});
  Decide();
  EXPECT_TRUE(Runs("gang"));
  EXPECT_EQ(Job("elastic").devices(), 4);
  EXPECT_GT(Job("elastic").revision, revision);
  Submit({.key = "wide", .devices = 2});
  Decide();
  EXPECT_EQ(Job("elastic").devices(), 2) << "never below its gang";
  Finish("gang");
  Decide();
  EXPECT_EQ(Job("elastic").devices(), 6);
}

TEST_F(ClusterEngineTest, JobsOfALostNodeWaitAndRunAgainWhenThereIsRoom) {
  Make();
  Node("a", 2);
  Node("b", 2);
  Submit({.key = "spread", .devices = 4});
  Decide();
  now_s_ = 5;
  Node("b", 2, false);
  Decide();
  ASSERT_EQ(changes_.size(), 1u);
  EXPECT_EQ(changes_[0].kind, ChangeKind::kEvict);
  EXPECT_EQ(changes_[0].reason, "node b is lost");
  EXPECT_FALSE(Runs("spread"));
  EXPECT_EQ(engine_->devices().free(), 2);
  now_s_ = 9;
  Node("b", 2);
  Decide();
  EXPECT_TRUE(Runs("spread"));
  EXPECT_EQ(engine_->devices().free(), 0);
}

TEST_F(ClusterEngineTest, AJobWithdrawnWhileItWaitsNeverRuns) {
  Make();
  Node("a", 2);
  Submit({.key = "first", .devices = 2});
  Submit({.key = "gone", .devices = 2});
  Submit({.key = "last", .devices = 2});
  Decide();
  Finish("gone");
  Submit({.key = "unheard", .devices = 2});
  Finish("unheard");
  Finish("first");
  Decide();
  EXPECT_TRUE(Runs("last"));
  EXPECT_EQ(engine_->open_jobs().size(), 1u);
  Submit({.key = "gone", .devices = 2});
  EXPECT_GE(engine_->Find("gone").value(), 0) << "the key is free again";
}

TEST_F(ClusterEngineTest, APreviewOfFifoIsExact) {
  Make();
  Node("a", 4);
  Submit({.key = "a", .devices = 3, .estimate_s = 100});
  Submit({.key = "b", .devices = 2, .estimate_s = 50});
  Submit({.key = "c", .devices = 4, .estimate_s = 10});
  Submit({.key = "d", .devices = 1, .estimate_s = 10});
  Decide();
  const auto forecast = engine_->Preview(engine_->Find("d"), 100);
  EXPECT_EQ(forecast.start_s, 160);
  EXPECT_EQ(forecast.before, (std::vector<JobIndex>{JobIndex(1), JobIndex(2)}));
  EXPECT_EQ(engine_->PreviewOf({.key = "e", .devices = 4}, 100).start_s, 170);
  EXPECT_EQ(engine_->Find("e").value(), -1) << "a preview submits nothing";
  EXPECT_FALSE(Runs("b"));
}

TEST_F(ClusterEngineTest, APreviewSaysWhenAnEstimateIsMissing) {
  Make();
  Node("a", 1);
  Submit({.key = "open-ended"});
  Submit({.key = "next"});
  Decide();
  const auto forecast = engine_->Preview(engine_->Find("next"), 100);
  EXPECT_EQ(forecast.start_s, sched::kNever);
  EXPECT_TRUE(forecast.guessed);
}

TEST_F(ClusterEngineTest, WrongInputsChangeNothing) {
  Make();
  Node("a", 1);
  now_s_ = 5;
  Decide();
  const auto refused = [&](ClusterInput input) { return !engine_->Apply(input).ok(); };
  EXPECT_TRUE(refused({.kind = ClusterInputKind::kDecide, .now_s = 4})) << "the clock goes back";
  EXPECT_TRUE(refused({.kind = ClusterInputKind::kFinish, .now_s = 5, .spec = {.key = "no"}}));
  EXPECT_TRUE(refused({.kind = ClusterInputKind::kSubmit, .now_s = 5}));
  EXPECT_TRUE(refused({.kind = ClusterInputKind::kNode, .now_s = 5, .node = "a"}));
  EXPECT_TRUE(refused({.kind = ClusterInputKind::kReserve, .now_s = 5}));
  Submit({.key = "job"});
  EXPECT_TRUE(absl::IsAlreadyExists(
      engine_->Apply({.kind = ClusterInputKind::kSubmit, .now_s = 5, .spec = {.key = "job"}})
          .status()));
  EXPECT_FALSE(ClusterEngine::Make({.policy = "none"}).ok());
}

TEST_F(ClusterEngineTest, PoliciesKnowWhichDevicesJobsHoldAndStartNobodyWithoutRoom) {
  for (const char* policy :
       {"lucid", "lyra", "sia-like", "optimus", "pollux", "gandiva", "muri-s"}) {
    SCOPED_TRACE(policy);
    auto engine = *ClusterEngine::Make({.policy = policy});
    const auto tell = [&](ClusterInput input) {
      auto changes = engine->Apply(input);
      ASSERT_TRUE(changes.ok()) << changes.status();
      for (const ClusterChange& change : *changes) {
        EXPECT_NE(change.kind, ChangeKind::kPutOff) << change.reason;
      }
    };
    tell({.kind = ClusterInputKind::kNode, .node = "n", .devices = 4});
    for (const char* key : {"a", "b", "c", "d"}) {
      tell({.kind = ClusterInputKind::kSubmit,
            .spec = {.key = key, .devices = 2, .estimate_s = 100}});
      tell({.kind = ClusterInputKind::kDecide});
    }
    EXPECT_EQ(engine->running_jobs(), 2u);
  }
}

TEST_F(ClusterEngineTest, APolicyThatNeedsWhatACoordinatorDoesNotDoIsRefusedWithTheReason) {
  const auto engine = ClusterEngine::Make({.policy = "synergy"});
  EXPECT_EQ(engine.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(engine.status().message(),
            "a coordinator cannot serve the policy synergy: it divides the CPUs and the memory of "
            "machines among their jobs, which a coordinator does not; `tide simulate` can, or give "
            "another --policy");
}

/// Random inputs under every policy: capacity holds, gangs are whole, and a replay of the rows in
/// journal form gives the same decisions.
TEST_F(ClusterEngineTest, UnderEveryPolicyCapacityHoldsAndTheRowsReplay) {
  for (const sched::ClusterPolicyInfo& info : sched::ClusterPolicies()) {
    if (info.simulated_only != nullptr) continue;
    SCOPED_TRACE(info.name);
    const ClusterOptions options = {.policy = info.name, .min_run_s = 3};
    Make(options);
    now_s_ = 0;
    std::vector<std::string> rows;
    std::string log;
    const auto tell = [&](ClusterInput input) {
      input.now_s = now_s_;
      rows.push_back(wire::Pack(wire::Value(ClusterInputToValue(input))));
      ASSERT_TRUE(engine_->Apply(input).ok());
      log += engine_->TakeLog();
    };
    Random random(7);
    for (int i = 0; i < 4; ++i)
      tell({.kind = ClusterInputKind::kNode, .node = std::to_string(i), .devices = 4});
    for (int step = 0; step < 400; ++step) {
      now_s_ += static_cast<double>(random.Below(5));
      const uint64_t dice = random.Below(10);
      const std::vector<JobIndex> open(engine_->open_jobs().begin(), engine_->open_jobs().end());
      if (dice < 5) {
        tell({.kind = ClusterInputKind::kSubmit,
              .spec = {.key = std::to_string(step),
                       .user = std::to_string(random.Below(3)),
                       .devices = 1 << random.Below(4),
                       .devices_max = random.Below(3) == 0 ? 12 : 0,
                       .estimate_s = static_cast<double>(1 + random.Below(50)),
                       .tier = static_cast<sched::JobTier>(random.Below(3))}});
      } else if (dice < 8 && !open.empty()) {
        const std::string key = engine_->job(open[random.Below(open.size())]).spec.key;
        if (engine_->Find(key).value() >= 0)
          tell({.kind = ClusterInputKind::kFinish, .spec = {.key = key}});
      } else if (dice == 8) {
        tell({.kind = ClusterInputKind::kNode,
              .node = std::to_string(random.Below(4)),
              .devices = 4,
              .works = random.Below(2) == 0});
      }
      tell({.kind = ClusterInputKind::kDecide});
      std::vector<int> used(4, 0);
      for (const JobIndex index : engine_->open_jobs()) {
        const ClusterJob& job = engine_->job(index);
        const bool runs = engine_->view(index).state == JobState::kRunning;
        ASSERT_EQ(runs, !job.placement.empty());
        ASSERT_TRUE(!runs || job.devices() >= job.spec.devices) << "a part of a gang";
        for (const DeviceShare& share : job.placement) used[share.node.value()] += share.devices;
      }
      for (const ClusterDevices::Node& node : engine_->devices().nodes()) {
        const int held = used[engine_->devices().IndexOf(node.name).value()];
        ASSERT_EQ(held, node.used);
        ASSERT_LE(held, node.works ? node.devices : 0) << "node " << node.name;
      }
    }
    auto replayed = *ClusterEngine::Make(options);
    std::string again;
    for (const std::string& row : rows) {
      ASSERT_TRUE(replayed->Apply(*ClusterInputFromValue(*wire::Unpack(row))).ok());
      again += replayed->TakeLog();
    }
    EXPECT_EQ(again, log);
    EXPECT_GT(log.size(), 500u);
  }
}

TEST_F(ClusterEngineTest, GangsThatStoodAsidePassInOrderWhenThereIsRoomForThem) {
  for (const bool fair : {false, true}) {
    SCOPED_TRACE(fair);
    Make({.fair_share = fair});
    Node("a", 4);
    for (const char* key : {"big1", "big2"}) Submit({.key = key, .devices = 6});
    Submit({.key = "large", .devices = 9});
    Submit({.key = "gone", .devices = 7});
    Submit({.key = "small", .devices = 4});
    Decide();
    EXPECT_TRUE(Runs("small"));
    EXPECT_EQ(engine_->gate().held(), 4u);
    Finish("gone");
    EXPECT_EQ(engine_->gate().held(), 3u);
    Node("b", 4);
    Submit({.key = "next", .devices = 1});
    Decide();
    EXPECT_FALSE(Runs("big1")) << "four of eight are free";
    EXPECT_TRUE(Job("large").at_gate);
    EXPECT_EQ(Job("big2").at_gate, fair) << "shares are handed out up to the capacity";
    Finish("small");
    Decide();
    EXPECT_TRUE(Runs("big1"));
    EXPECT_FALSE(Runs("big2"));
    EXPECT_TRUE(Job("large").at_gate);
    Node("b", 20);
    Finish("big1");
    Decide();
    EXPECT_TRUE(Runs("big2") && Runs("large") && Runs("next"));
    EXPECT_EQ(engine_->gate().held(), 0u);
  }
}

}  // namespace
}  // namespace tide::coordinator

// Jobs that are moved between nodes and nodes that drain: what is kept, given back and refused.
#include "base/random.h"
#include "coordinator/cluster_engine.h"
#include "gtest/gtest.h"

namespace tide::coordinator {
namespace {

using sched::JobState;
using wire::MoveStep;

class ClusterMovesTest : public testing::Test {
 protected:
  void Make(ClusterOptions options = {}) { engine_ = *ClusterEngine::Make(options); }
  void Node(const std::string& name, int devices, bool works = true) {
    Tell({.kind = ClusterInputKind::kNode, .node = name, .devices = devices, .works = works});
  }
  void Submit(JobSpec spec) { Tell({.kind = ClusterInputKind::kSubmit, .spec = std::move(spec)}); }
  void Finish(const std::string& key) {
    Tell({.kind = ClusterInputKind::kFinish, .spec = {.key = key}});
  }
  static ClusterInput MoveInput(const std::string& key, const std::string& to = "") {
    return {.kind = ClusterInputKind::kMove, .spec = {.key = key}, .node = to, .reason = "asked"};
  }
  void Move(const std::string& key, const std::string& to = "") { Tell(MoveInput(key, to)); }
  void Say(const std::string& key, MoveStep step, const std::string& why = "it was so") {
    ClusterInput input = MoveInput(key);
    input.step = step;
    input.revision = Job(key).revision;
    input.reason = why;
    Tell(std::move(input));
  }
  void Drain(const std::string& node, bool drains = true) {
    Tell({.kind = ClusterInputKind::kDrain, .node = node, .drains = drains});
  }
  void Decide() { changes_ = Tell({.kind = ClusterInputKind::kDecide}); }
  std::vector<ClusterChange> Tell(ClusterInput input) {
    input.now_s = now_s_;
    auto applied = engine_->Apply(input);
    EXPECT_TRUE(applied.ok()) << applied.status();
    return applied.ok() ? *std::move(applied) : std::vector<ClusterChange>();
  }
  std::string Refusal(ClusterInput input) const {
    input.now_s = now_s_;
    return std::string(engine_->Check(input).message());
  }
  bool Runs(const std::string& key) const {
    const JobIndex index = engine_->Find(key);
    return index.value() >= 0 && engine_->view(index).state == JobState::kRunning;
  }
  const ClusterJob& Job(const std::string& key) const { return engine_->job(engine_->Find(key)); }
  std::string Places(const std::string& key) const {
    return engine_->devices().Words(Job(key).placement);
  }
  std::string Target(const std::string& key) const {
    return engine_->devices().Words(Job(key).target);
  }
  int Free() const { return engine_->devices().free(); }
  /// The reasons of one kind of change of the last decision.
  std::string Told(ChangeKind kind) const {
    std::string text;
    for (const ClusterChange& change : changes_)
      text += change.kind == kind ? change.reason + "\n" : "";
    return text;
  }

  std::unique_ptr<ClusterEngine> engine_;
  std::vector<ClusterChange> changes_;
  double now_s_ = 0;
};

TEST_F(ClusterMovesTest, AJobThatMovesHoldsBothPlacesUntilItHasLeft) {
  Make();
  Node("m1", 2);
  Node("m2", 2);
  Submit({.key = "train", .devices = 2, .movable = true});
  Decide();
  ASSERT_EQ(Places("train"), "2 on m1");
  const int64_t revision = Job("train").revision;
  now_s_ = 10;
  Move("train", "m2");
  Submit({.key = "next", .devices = 2});
  Decide();
  EXPECT_EQ(Told(ChangeKind::kMoving), "from 2 on m1 to 2 on m2 once it has saved: asked\n");
  EXPECT_EQ(Places("train"), "2 on m1");
  EXPECT_EQ(Target("train"), "2 on m2");
  EXPECT_FALSE(Runs("next")) << "nothing is free before it has left";
  now_s_ = 13.5;
  Say("train", MoveStep::kLeft);
  Decide();
  EXPECT_EQ(Told(ChangeKind::kMoved),
            "from 2 on m1 to 2 on m2: asked, 3.5 s after it was asked for\n");
  EXPECT_EQ(Places("train"), "2 on m2");
  EXPECT_GT(Job("train").revision, revision);
  EXPECT_EQ(Places("next"), "2 on m1");
  Say("train", MoveStep::kLeft);  // a lost answer
  EXPECT_EQ(Places("train"), "2 on m2");
  Finish("train");
  Finish("next");
  Decide();
  EXPECT_EQ(Free(), 4);
}

TEST_F(ClusterMovesTest, AMoveThatIsGivenUpFreesWhatWasKept) {
  Make();
  Node("m1", 1);
  Node("m2", 1);
  Submit({.key = "train", .movable = true});
  Decide();
  Move("train");
  Say("train", MoveStep::kStays, "it has not ended after 300 s");
  Say("train", MoveStep::kStays, "said twice");
  Decide();
  EXPECT_EQ(Told(ChangeKind::kStays), "it has not ended after 300 s\n");
  EXPECT_TRUE(Runs("train"));
  EXPECT_EQ(Free(), 1);
  Move("train");
  Decide();
  EXPECT_EQ(engine_->wake_s(), 900) << "who started the job may have been killed";
  now_s_ = 900;
  Decide();
  EXPECT_EQ(Told(ChangeKind::kStays), "it did not leave within 900 s\n");
  EXPECT_EQ(Free(), 1);
  EXPECT_EQ(engine_->wake_s(), sched::kNever);
}

TEST_F(ClusterMovesTest, WhatCannotBeMovedIsRefusedInASentence) {
  Make();
  Node("m1", 2);
  Node("m2", 1);
  Submit({.key = "fixed", .devices = 2});
  Submit({.key = "train", .movable = true});
  Submit({.key = "waits", .movable = true});
  Decide();
  ASSERT_EQ(Places("train"), "1 on m2");
  const std::string before = engine_->Snapshot();
  EXPECT_EQ(Refusal(MoveInput("no")), "no open job has the key no");
  EXPECT_EQ(Refusal(MoveInput("fixed")),
            "fixed was not submitted with --movable: nobody would carry it over");
  EXPECT_EQ(Refusal(MoveInput("waits")), "waits waits for devices; a job that runs can be moved");
  EXPECT_EQ(Refusal(MoveInput("train", "m2")), "train runs on m2 already");
  EXPECT_EQ(Refusal(MoveInput("train", "m3")), "no node is called m3; there are m1, m2");
  EXPECT_EQ(Refusal(MoveInput("train", "m1")),
            "train has 1 devices; 0 are free for it on m1, with those that elastic jobs would give "
            "back");
  EXPECT_EQ(Refusal({.kind = ClusterInputKind::kDrain, .node = "m9"}),
            "no node is called m9; there are m1, m2");
  EXPECT_EQ(Refusal({.kind = ClusterInputKind::kSubmit,
                     .spec = {.key = "both", .devices_max = 2, .movable = true}}),
            "a movable job has a fixed gang: an elastic one has no checkpoint that a signal asks "
            "for; give it no devices_max");
  EXPECT_FALSE(engine_->Apply(MoveInput("train", "m1")).ok());
  EXPECT_TRUE(engine_->Snapshot() == before) << "what is refused changes nothing";
  Finish("fixed");
  Drain("m1");
  EXPECT_EQ(Refusal(MoveInput("train", "m1")),
            "m1 is being emptied; `tide drain m1 --undo` ends that");
  Drain("m1", false);
  Move("train", "m1");
  EXPECT_EQ(Refusal(MoveInput("train")), "train is being moved already, to 1 on m1");
  Node("m1", 2, false);
  EXPECT_EQ(Refusal(MoveInput("train", "m1")), "m1 is lost");
}

TEST_F(ClusterMovesTest, ANodeThatDrainsTakesNothingAndItsMovableJobsLeaveWhenThereIsRoom) {
  Make();
  Node("m1", 3);
  Submit({.key = "train", .devices = 2, .movable = true});
  Submit({.key = "fixed"});
  Decide();
  Node("m2", 2);
  Submit({.key = "other", .devices = 1});
  Decide();
  ASSERT_EQ(Places("other"), "1 on m2");
  Drain("m1");
  Decide();
  EXPECT_TRUE(Job("train").target.empty()) << "one of two devices is free on m2";
  EXPECT_EQ(engine_->capacity().devices, 5);
  Finish("other");
  Decide();
  EXPECT_EQ(Told(ChangeKind::kMoving),
            "from 2 on m1 to 2 on m2 once it has saved: m1 is being emptied\n");
  Say("train", MoveStep::kLeft);
  Submit({.key = "late"});
  Decide();
  EXPECT_EQ(Places("train"), "2 on m2");
  EXPECT_EQ(Places("fixed"), "1 on m1") << "it stays until it ends";
  EXPECT_FALSE(Runs("late"));
  EXPECT_EQ(Free(), 0);
  EXPECT_EQ(engine_->withheld(), 2);
  Finish("fixed");
  Decide();
  EXPECT_EQ(engine_->withheld(), 3);
  EXPECT_FALSE(Runs("late"));
  Node("m1", 3, false);
  Node("m1", 3);  // the machine was started anew
  Decide();
  EXPECT_FALSE(Runs("late")) << "it drains until somebody says that it does not";
  Drain("m1", false);
  Decide();
  EXPECT_EQ(Places("late"), "1 on m1");
  EXPECT_EQ(Free(), 2);
}

TEST_F(ClusterMovesTest, AJobThatDidNotLeaveADrainingNodeIsNotAskedForEver) {
  Make();
  Node("m1", 1);
  Submit({.key = "train", .movable = true});
  Decide();
  Node("m2", 1);
  Drain("m1");
  Decide();
  ASSERT_EQ(Target("train"), "1 on m2");
  Say("train", MoveStep::kStays);
  Decide();
  Decide();
  EXPECT_EQ(Target("train"), "") << "once";
  Move("train");
  EXPECT_EQ(Target("train"), "1 on m2") << "who asks is obeyed";
  Say("train", MoveStep::kStays);
  Drain("m1");
  Decide();
  EXPECT_EQ(Target("train"), "1 on m2") << "asked anew";
}

TEST_F(ClusterMovesTest, AJobThatCannotBeStartedGoesBackOrWaits) {
  Make();
  Node("m1", 1);
  Submit({.key = "train", .movable = true});
  Decide();
  Node("m2", 1);
  const auto move = [&](const std::string& to) {
    Move("train", to);
    Say("train", MoveStep::kLeft);
    Decide();
  };
  move("m2");
  ASSERT_EQ(Places("train"), "1 on m2");
  ClusterInput failed = MoveInput("train");
  failed.step = MoveStep::kFailed;
  failed.reason = "ssh m2 ended with 255";
  failed.revision = Job("train").revision;
  Tell(failed);
  Decide();
  EXPECT_EQ(Told(ChangeKind::kMoved), "from 1 on m2 to 1 on m1: ssh m2 ended with 255\n");
  EXPECT_EQ(Places("train"), "1 on m1");
  Tell(failed);  // a lost answer
  EXPECT_EQ(Places("train"), "1 on m1");
  move("m2");
  Submit({.key = "other"});
  Decide();
  ASSERT_EQ(Places("other"), "1 on m1");
  failed.revision = Job("train").revision;
  Tell(failed);
  EXPECT_FALSE(Runs("train")) << "its old place is taken";
  EXPECT_EQ(Job("train").reason, "ssh m2 ended with 255");
  Decide();
  EXPECT_EQ(Told(ChangeKind::kEvict), "ssh m2 ended with 255\n");
  EXPECT_EQ(Places("train"), "1 on m2") << "it starts again where there is room";
}

TEST_F(ClusterMovesTest, AJobThatThePolicyStartsElsewhereIsAwayUntilItsCommandHasCome) {
  Make({.policy = "srtf"});
  Node("m1", 2);
  Submit({.key = "train", .devices = 2, .estimate_s = 1000, .movable = true});
  Decide();
  now_s_ = 5;
  Submit({.key = "short", .devices = 2, .estimate_s = 10});
  Decide();
  ASSERT_FALSE(Runs("train"));
  Node("m2", 2);
  Decide();
  EXPECT_EQ(Places("train"), "2 on m2");
  EXPECT_TRUE(Job("train").away) << "its command is paused on m1";
  EXPECT_EQ(Refusal(MoveInput("train")), "train is being carried over to 2 on m2 already");
  Say("train", MoveStep::kLeft);
  Decide();
  EXPECT_FALSE(Job("train").away);
  EXPECT_NE(Told(ChangeKind::kMoved).find("from 2 on m1 to 2 on m2: "), std::string::npos);
  EXPECT_EQ(Places("train"), "2 on m2");
}

TEST_F(ClusterMovesTest, AJobThatDoesNotLeaveForWhereThePolicyPutItGoesBackOrWaits) {
  for (const bool room : {true, false}) {
    SCOPED_TRACE(room);
    now_s_ = 0;
    Make({.policy = "srtf"});
    Node("m1", 1);
    Submit({.key = "train", .estimate_s = 1000, .movable = true});
    Decide();
    now_s_ = 5;
    Submit({.key = "short", .estimate_s = 10});
    Decide();
    Node("m2", 1);
    Decide();
    ASSERT_TRUE(Job("train").away);
    if (room) Finish("short");
    Say("train", MoveStep::kStays, "it has not ended");
    EXPECT_EQ(Runs("train"), room);
    EXPECT_FALSE(Job("train").away);
    EXPECT_EQ(Places("train"), room ? "1 on m1" : "");
  }
}

TEST_F(ClusterMovesTest, AMoveToANodeThatIsLostOrDrainsIsOffAndMayBeTriedElsewhere) {
  Make();
  Node("m1", 1);
  Submit({.key = "train", .movable = true});
  Decide();
  Node("m2", 1);
  Node("m3", 1);
  Drain("m1");
  Decide();
  ASSERT_EQ(Target("train"), "1 on m2");
  Node("m2", 1, false);
  EXPECT_EQ(Target("train"), "");
  Decide();
  EXPECT_EQ(Told(ChangeKind::kStays), "node m2 is lost\n");
  EXPECT_EQ(Target("train"), "1 on m3");
  Drain("m3");
  Decide();
  EXPECT_EQ(Told(ChangeKind::kStays), "m3 is being emptied\n");
  EXPECT_EQ(Target("train"), "");
  EXPECT_EQ(engine_->devices().Find("m3")->used, 0);
  EXPECT_EQ(Places("train"), "1 on m1");
}

TEST_F(ClusterMovesTest, WhatElasticJobsHaveBeyondTheirGangsMakesRoomForAMove) {
  Make();
  Node("m1", 2);
  Submit({.key = "train", .devices = 2, .movable = true});
  Decide();
  Node("m2", 3);
  Submit({.key = "elastic", .devices_max = 3});
  Decide();
  ASSERT_EQ(Places("elastic"), "3 on m2");
  Move("train", "m2");
  Decide();
  EXPECT_EQ(Places("elastic"), "1 on m2");
  EXPECT_EQ(Target("train"), "2 on m2");
  Say("train", MoveStep::kLeft);
  Drain("m2");
  Decide();
  EXPECT_EQ(Target("train"), "2 on m1") << "back, since m2 is to be empty";
  EXPECT_EQ(Places("elastic"), "1 on m2");
}

TEST_F(ClusterMovesTest, AMoveTakesNothingThatIsKeptForAReservation) {
  Make();
  Node("m1", 2);
  Submit({.key = "train", .devices = 2, .movable = true});
  Submit({.key = "young"});
  Decide();
  Node("m2", 3);
  Decide();
  ASSERT_EQ(Places("young"), "1 on m2");
  Tell({.kind = ClusterInputKind::kReserve,
        .reservation = {.name = "exam", .user = "ann", .devices = 2, .from_s = 0, .to_s = 90}});
  Decide();
  EXPECT_EQ(Refusal(MoveInput("train")),
            "train has 2 devices; 0 are free for it on other nodes, with those that elastic jobs "
            "would give back");
  Drain("m1");
  Decide();
  EXPECT_EQ(Target("train"), "");
  EXPECT_TRUE(Runs("train") && Runs("young"));
}

TEST_F(ClusterMovesTest, APreviewGoesPastAMoveThatIsOpen) {
  Make();
  Node("m1", 1);
  Node("m2", 1);
  Submit({.key = "train", .estimate_s = 2000, .movable = true});
  Decide();
  Move("train");
  Submit({.key = "next", .estimate_s = 5});
  Decide();
  const auto forecast = engine_->Preview(engine_->Find("next"), 100);
  EXPECT_EQ(forecast.start_s, kMoveLongestS) << "then what was kept is free at the latest";
  EXPECT_NE(Target("train"), "");
}

/// Random inputs under every policy. After each: no node has more granted and kept than it has, and
/// what is drained grows by nobody; in the end the rows give the same decisions and the same state.
class ClusterMovesLaw : public ClusterMovesTest {
 protected:
  void Run(const ClusterOptions& options, uint64_t seed) {
    Make(options);
    Random random(seed);
    std::vector<std::string> rows;
    std::string log;
    const auto tell = [&](ClusterInput input) {
      input.now_s = now_s_;
      if (!engine_->Check(input).ok()) return;
      rows.push_back(wire::Pack(wire::Value(ClusterInputToValue(input))));
      ASSERT_TRUE(engine_->Apply(input).ok());
      log += engine_->TakeLog();
      moves_ += input.kind == ClusterInputKind::kMove && input.step == MoveStep::kLeft;
    };
    now_s_ = 0;
    for (int i = 0; i < 4; ++i)
      tell({.kind = ClusterInputKind::kNode, .node = std::to_string(i), .devices = 4});
    for (int step = 0; step < 300; ++step) {
      now_s_ += static_cast<double>(random.Below(8));
      tell(Draw(step, random));
      if (random.Below(3) > 0) tell({.kind = ClusterInputKind::kDecide});
      CheckCapacity();
      if (HasFatalFailure()) return;
    }
    auto replayed = *ClusterEngine::Make(options);
    std::string again;
    for (const std::string& row : rows) {
      ASSERT_TRUE(replayed->Apply(*ClusterInputFromValue(*wire::Unpack(row))).ok());
      again += replayed->TakeLog();
    }
    EXPECT_EQ(again, log);
    EXPECT_TRUE(replayed->Snapshot() == engine_->Snapshot());
  }

  ClusterInput Draw(int step, Random& random) const {
    const std::vector<JobIndex> open(engine_->open_jobs().begin(), engine_->open_jobs().end());
    const std::string node = std::to_string(random.Below(4));
    const uint64_t dice = random.Below(20);
    if (dice < 7 || open.empty()) {
      const int devices_max = random.Below(4) == 0 ? 12 : 0;
      return {.kind = ClusterInputKind::kSubmit,
              .spec = {.key = std::to_string(step),
                       .devices = 1 + static_cast<int>(random.Below(5)),
                       .devices_max = devices_max,
                       .estimate_s = static_cast<double>(1 + random.Below(50)),
                       .tier = static_cast<sched::JobTier>(random.Below(3)),
                       .movable = devices_max == 0}};
    }
    const ClusterJob& job = engine_->job(open[random.Below(open.size())]);
    if (dice < 10) return {.kind = ClusterInputKind::kFinish, .spec = {.key = job.spec.key}};
    if (dice == 10) {
      return {.kind = ClusterInputKind::kNode,
              .node = node,
              .devices = 2 + static_cast<int>(random.Below(4)),
              .works = random.Below(2) == 0};
    }
    if (dice < 13)
      return {.kind = ClusterInputKind::kDrain, .node = node, .drains = random.Below(2) == 0};
    ClusterInput move = MoveInput(job.spec.key, random.Below(2) == 0 ? node : "");
    const bool moves = !job.target.empty() || job.away;
    move.step = static_cast<MoveStep>(moves ? 1 + random.Below(3) : random.Below(4));
    move.revision = job.revision;
    return move;
  }

  void CheckCapacity() {
    std::vector<int> used(4, 0);
    int kept = 0, gangs = 0;
    for (const JobIndex index : engine_->open_jobs()) {
      const ClusterJob& job = engine_->job(index);
      const bool runs = engine_->view(index).state == JobState::kRunning;
      ASSERT_EQ(runs, !job.placement.empty());
      ASSERT_TRUE(!runs || job.devices() >= job.spec.devices) << "a part of a gang";
      ASSERT_TRUE(runs || (job.target.empty() && !job.away));
      gangs += runs ? job.spec.devices : 0;
      for (const DeviceShare& share : job.placement) used[share.node.value()] += share.devices;
      for (const DeviceShare& share : job.target) {
        used[share.node.value()] += share.devices;
        kept += share.devices;
        ASSERT_FALSE(engine_->devices().nodes()[share.node.value()].drains);
      }
    }
    int free = 0, withheld = kept;
    for (const ClusterDevices::Node& node : engine_->devices().nodes()) {
      const int held = used[engine_->devices().IndexOf(node.name).value()];
      ASSERT_EQ(held, node.used);
      ASSERT_LE(held, node.works ? node.devices : 0) << "node " << node.name;
      free += node.drains || !node.works ? 0 : node.devices - held;
      withheld += node.drains && node.works ? node.devices - held : 0;
    }
    ASSERT_EQ(engine_->devices().free(), free);
    ASSERT_EQ(engine_->withheld(), withheld);
    ASSERT_LE(gangs, engine_->capacity().devices) << "the policy would take somebody's away";
  }

  int moves_ = 0;
};

TEST_F(ClusterMovesLaw, UnderEveryPolicyNoNodeHasMoreThanItHasAndTheRowsReplay) {
  for (const sched::ClusterPolicyInfo& info : sched::ClusterPolicies()) {
    if (info.simulated_only != nullptr) continue;
    for (uint64_t seed = 1; seed <= 3; ++seed) {
      SCOPED_TRACE(testing::Message() << info.name << ", seed " << seed);
      Run({.policy = info.name,
           .min_run_s = seed == 2 ? 5.0 : 0.0,
           .spread_speed = seed == 3 ? 0.5 : 1},
          seed);
      ASSERT_FALSE(HasFailure());
    }
  }
  EXPECT_GT(moves_, 500);
}

}  // namespace
}  // namespace tide::coordinator

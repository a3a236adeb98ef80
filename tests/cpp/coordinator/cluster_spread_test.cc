// Gangs on more nodes than they need: what policies are told, and what comes of what they decide.
#include "absl/strings/str_format.h"
#include "coordinator/cluster_engine.h"
#include "gtest/gtest.h"

namespace tide::coordinator {
namespace {

/// Two nodes of two devices with one free on each, on which `wide` has to be spread.
class ClusterSpreadTest : public testing::TestWithParam<const char*> {
 protected:
  void Make(double spread_speed, bool movable) {
    engine_ = *ClusterEngine::Make({.policy = GetParam(), .spread_speed = spread_speed});
    for (const char* node : {"m1", "m2"}) Node(node, 2);
    for (const char* key : {"s0", "s1", "s2", "s3"}) Submit({.key = key});
    Decide(0);
    for (const char* key : {"s1", "s3"})
      Tell({.kind = ClusterInputKind::kFinish, .spec = {.key = key}});
    Submit({.key = "wide", .devices = 2, .movable = movable});
    Decide(0);
    if (Wide().placement.empty()) Decide(300);  // philly insists on few nodes for 180 s
    ASSERT_EQ(Wide().placement.size(), 2u) << Wide().reason;
    engine_->TakeLog();
  }
  void Node(const char* name, int devices) {
    Tell({.kind = ClusterInputKind::kNode, .node = name, .devices = devices});
  }
  void Submit(JobSpec spec) {
    spec.estimate_s = 9000;
    Tell({.kind = ClusterInputKind::kSubmit, .spec = std::move(spec)});
  }
  void Decide(double now_s) {
    now_s_ = now_s;
    Tell({.kind = ClusterInputKind::kDecide});
  }
  void Tell(ClusterInput input) {
    input.now_s = now_s_;
    EXPECT_TRUE(engine_->Apply(input).ok());
  }
  const ClusterJob& Wide() const { return engine_->job(engine_->Find("wide")); }
  double Rate() const { return engine_->view(engine_->Find("wide")).rate; }
  std::string Target() const { return engine_->devices().Words(Wide().target); }

  std::unique_ptr<ClusterEngine> engine_;
  double now_s_ = 0;
};

TEST_P(ClusterSpreadTest, AGangThatIsSlowedByItIsMovedToFewerNodesOnceItHasSaved) {
  Make(0.5, true);
  EXPECT_EQ(Rate(), 0.5);
  Node("m3", 2);
  const double began_s = now_s_;
  Decide(began_s + 59);
  EXPECT_EQ(Target(), "") << "it has lost 29.5 s, a move costs 30";
  Decide(began_s + 61);
  EXPECT_EQ(Target(), "2 on m3");
  EXPECT_EQ(Wide().placement.size(), 2u) << "it runs on until it has saved";
  EXPECT_EQ(
      engine_->TakeLog(),
      absl::StrFormat(
          "%.3f move wide: it is on more nodes than it needs, and fewer have room now\n", now_s_));
  Decide(2000);
  EXPECT_EQ(engine_->TakeLog(), "") << "it was not heard of for 900 s, and is not asked again";
  EXPECT_EQ(Target(), "");
  Tell({.kind = ClusterInputKind::kMove, .spec = {.key = "wide"}, .node = "m3"});
  Tell({.kind = ClusterInputKind::kMove, .spec = {.key = "wide"}, .step = wire::MoveStep::kLeft});
  EXPECT_EQ(engine_->devices().Words(Wide().placement), "2 on m3");
  EXPECT_EQ(Rate(), 1);
}

TEST_P(ClusterSpreadTest, WhoCannotBeMovedOrLosesNothingStaysWhereItIs) {
  for (const bool movable : {true, false}) {
    now_s_ = 0;
    Make(movable ? 1 : 0.5, movable);
    Node("m3", 2);
    Decide(1000);
    EXPECT_EQ(Target(), "");
    EXPECT_EQ(engine_->TakeLog(), "");
    EXPECT_EQ(Wide().placement.size(), 2u);
  }
}

TEST_P(ClusterSpreadTest, WhereMachinesAreNotAlikeNodesDoNotMatter) {
  Make(0.5, true);
  Node("m3", 3);
  Decide(1000);
  EXPECT_EQ(Target(), "");
}

INSTANTIATE_TEST_SUITE_P(Policies, ClusterSpreadTest, testing::Values("gandiva", "philly"));

TEST(ClusterSpreadOptionsTest, ASpeedIsAboveZeroAndAtMostOne) {
  for (const double speed : {0.0, -1.0, 1.5})
    EXPECT_FALSE(ClusterEngine::Make({.spread_speed = speed}).ok());
}

}  // namespace
}  // namespace tide::coordinator

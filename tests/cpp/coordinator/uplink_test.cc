// A machine of a cluster and an elastic job on it: grants become orders to one of its processes.
#include "coordinator/uplink.h"

#include "cpp/coordinator/fakes.h"

namespace tide::coordinator {
namespace {

class UplinkTest : public CoreTest {
 protected:
  UplinkTest() {
    core_ = std::make_unique<Core>(Core::Parts{journal_, *edges_, device_, clock_}, std::nullopt,
                                   NodeOptions{.node = "m", .devices = 4});
    EXPECT_TRUE(core_->Start(99).ok());
    core_->UplinkOpen();
    first_ = StartJob("train[0]", 10);
    second_ = StartJob("train[1]", 11);
  }
  void Grant(const std::string& key, wire::AllocationState state, int64_t devices,
             int64_t holding = 0, double pace = 1) {
    core_->UplinkFrame(*wire::EncodeMessage(wire::Allocation{.key = key,
                                                             .revision = ++revision_,
                                                             .state = state,
                                                             .devices = devices,
                                                             .workers = devices,
                                                             .reason = "a test",
                                                             .holding = holding,
                                                             .pace = pace}));
    ASSERT_TRUE(core_->Flush().ok());
  }
  void Report(int64_t processes, int64_t high = 3) {
    Say(first_, wire::Report{.phase = "running",
                             .processes = processes,
                             .processes_low = 1,
                             .processes_high = high});
    Pass(absl::Seconds(1));
  }
  void Acknowledge(wire::OrderStatus status, int64_t wanted) {
    const auto order = Take<wire::Order>(first_);
    ASSERT_TRUE(order.has_value());
    EXPECT_EQ(order->kind, wire::OrderKind::kResize);
    EXPECT_EQ(order->processes, wanted);
    Say(first_, wire::OrderAck{.order_id = order->order_id, .status = status, .took_ms = 120});
  }
  bool Ordered() { return Take<wire::Order>(first_).has_value(); }
  const NodeAgent& agent() { return *core_->state().uplink.agent; }

  PeerId first_, second_;
  int64_t revision_ = 0;
};

TEST_F(UplinkTest, AnElasticJobGrowsToItsGrantOnce) {
  Report(1);
  Grant("train", wire::AllocationState::kRun, 3);
  Acknowledge(wire::OrderStatus::kDone, 3);
  EXPECT_EQ(LastEvent(), "train has 3 processes by the cluster (a test), in 120 ms");
  EXPECT_FALSE(Take<wire::Order>(second_).has_value()) << "one of them is told";
  Report(3);
  EXPECT_FALSE(Ordered());
  Report(2);  // somebody has asked for fewer: that is below the grant
  EXPECT_FALSE(Ordered());
}

TEST_F(UplinkTest, WhatIsGivenBackCountsWhenTheProcessesHaveGone) {
  Report(3);
  Grant("train", wire::AllocationState::kRun, 3);
  Grant("other", wire::AllocationState::kRun, 3);
  EXPECT_FALSE(agent().MayRun("other"));
  Grant("train", wire::AllocationState::kRun, 1);
  Report(3);
  EXPECT_FALSE(agent().MayRun("other")) << "three processes still run";
  Acknowledge(wire::OrderStatus::kDone, 1);
  Report(1);
  EXPECT_EQ(agent().running_devices("train"), 1);
  Pass(absl::Seconds(1));
  EXPECT_TRUE(agent().MayRun("other"));
}

TEST_F(UplinkTest, AResizeThatFailsIsTriedAgainAfterAWhile) {
  Report(1);
  Grant("train", wire::AllocationState::kRun, 2);
  Acknowledge(wire::OrderStatus::kRolledBack, 2);
  EXPECT_NE(LastEvent().find("train does not go on with 2 processes"), std::string::npos);
  Report(1);
  EXPECT_FALSE(Ordered());
  Pass(absl::Seconds(10));
  Acknowledge(wire::OrderStatus::kDone, 2);
}

TEST_F(UplinkTest, AGrantBeyondTheBoundsOfTheJobIsFollowedAsFarAsTheyGoAndThatIsSaid) {
  Report(1, 2);
  Grant("train", wire::AllocationState::kRun, 4);
  Acknowledge(wire::OrderStatus::kDone, 2);
  Report(2, 2);
  EXPECT_EQ(LastEvent(),
            "train goes on with 2 processes, granted are 4 devices: it runs on 1 to 2");
  Report(2, 2);
  EXPECT_FALSE(Ordered());
}

TEST_F(UplinkTest, APaceIsTheWeightOfTheJobsProcesses) {
  const auto weight = [&](const char* name) { return core_->state().FindJob(name)->wanted.weight; };
  Grant("train", wire::AllocationState::kRun, 2, 7, 0.25);
  Pass(absl::Seconds(1));
  EXPECT_EQ(weight("train[0]"), 0.25);
  EXPECT_EQ(weight("train[1]"), 0.25);
  StartJob("train[2]", 12);
  Pass(absl::Seconds(1));
  EXPECT_EQ(weight("train[2]"), 0.25) << "who comes later too";
  Grant("train", wire::AllocationState::kRun, 2, 7, 1);
  Pass(absl::Seconds(1));
  EXPECT_EQ(weight("train[0]"), 1);
  Say(Cli(), wire::Command{.what = "weight", .job = "train[0]", .weight = 3}, 1);
  Pass(absl::Seconds(1));
  EXPECT_EQ(weight("train[0]"), 3) << "what nobody paces is the user's";
}

TEST_F(UplinkTest, AJobThatIsNotElasticIsNotToldASize) {
  Say(first_, wire::Report{.phase = "running"});
  Grant("train", wire::AllocationState::kRun, 3);
  Pass(absl::Seconds(1));
  EXPECT_FALSE(Ordered());
  EXPECT_EQ(agent().running_devices("train"), 3);
}

}  // namespace
}  // namespace tide::coordinator

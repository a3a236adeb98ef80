// A machine's agent: never more than it has, whatever comes in whatever order.
#include "coordinator/node_agent.h"

#include "base/random.h"
#include "gtest/gtest.h"

namespace tide::coordinator {
namespace {

using wire::AllocationState;

wire::Allocation Grant(const std::string& key, int64_t revision, AllocationState state,
                       int64_t devices = 0) {
  return {.key = key, .revision = revision, .state = state, .devices = devices, .workers = devices};
}

TEST(NodeAgentTest, JoinsWithWhatItRuns) {
  NodeAgent agent({.node = "a", .devices = 4, .incarnation = 9});
  agent.OnMessage(Grant("x", 3, AllocationState::kRun, 2), 0);
  agent.Took("x", AllocationState::kRun);
  const auto first = agent.Connected(0);
  ASSERT_EQ(first.size(), 2u);
  EXPECT_EQ(std::get<wire::Hello>(first[0]).role, wire::Role::kNode);
  const auto& join = std::get<wire::Join>(first[1]);
  EXPECT_EQ(join.devices, 4);
  EXPECT_EQ((*join.held.As<wire::Value::Array>())[0].Text("key"), "x");
}

TEST(NodeAgentTest, ARunWaitsForTheHoldThatMakesRoom) {
  NodeAgent agent({.node = "a", .devices = 4});
  agent.OnMessage(Grant("old", 1, AllocationState::kRun, 4), 0);
  agent.Took("old", AllocationState::kRun);
  agent.OnMessage(Grant("new", 1, AllocationState::kRun, 4), 0);
  EXPECT_TRUE(agent.NextSteps().empty());
  EXPECT_FALSE(agent.MayRun("new"));
  agent.OnMessage(Grant("old", 2, AllocationState::kHold), 0);
  auto steps = agent.NextSteps();
  ASSERT_EQ(steps.size(), 1u);
  EXPECT_EQ(steps[0].key, "old");
  agent.Took("old", AllocationState::kHold);
  steps = agent.NextSteps();
  ASSERT_EQ(steps.size(), 1u);
  EXPECT_EQ(steps[0].key, "new");
}

TEST(NodeAgentTest, JobsOnTheSameDevicesCountOnce) {
  NodeAgent agent({.node = "a", .devices = 4});
  const auto grant = [&](const std::string& key, int64_t holding, int64_t devices) {
    wire::Allocation allocation = Grant(key, 1, AllocationState::kRun, devices);
    allocation.holding = holding;
    agent.OnMessage(allocation, 0);
    for (const auto& step : agent.NextSteps()) agent.Took(step.key, step.state);
  };
  grant("host", 5, 3);
  grant("guest", 5, 3);
  EXPECT_TRUE(agent.MayRun("guest"));
  EXPECT_EQ(agent.running_devices(), 3);
  grant("large", 6, 2);
  EXPECT_FALSE(agent.MayRun("large"));
  grant("small", 7, 1);
  EXPECT_TRUE(agent.MayRun("small"));
  agent.OnMessage(Grant("host", 2, AllocationState::kHold), 0);
  agent.Took("host", AllocationState::kHold);
  EXPECT_EQ(agent.running_devices(), 4) << "the guest is still on them";
}

TEST(NodeAgentTest, AnOlderGrantThatComesLateChangesNothing) {
  NodeAgent agent({.node = "a", .devices = 4});
  agent.OnMessage(Grant("x", 5, AllocationState::kHold), 0);
  const auto ack = agent.OnMessage(Grant("x", 4, AllocationState::kRun, 2), 0);
  EXPECT_EQ(std::get<wire::AllocationAck>(ack[0]).revision, 4);
  EXPECT_TRUE(agent.NextSteps().empty());
}

TEST(NodeAgentTest, RenewsItsLeaseThreeTimesInOneAndNoticesSilence) {
  NodeAgent agent({.node = "a"});
  agent.Connected(0);
  agent.OnMessage(wire::Lease{.lease_ms = 3000}, 0);
  EXPECT_TRUE(agent.Tick(999'000'000).empty());
  EXPECT_EQ(agent.Tick(1'000'000'000).size(), 1u);
  EXPECT_FALSE(agent.Silent(3'000'000'000));
  EXPECT_TRUE(agent.Silent(3'000'000'001));
  agent.Lost();
  EXPECT_FALSE(agent.Silent(9'000'000'000)) << "there is no link to be silent";
}

TEST(NodeAgentTest, RandomGrantsNeverRunMoreThanThereIs) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    NodeAgent agent({.node = "a", .devices = 8});
    std::map<std::string, int64_t> revisions;
    for (int step = 0; step < 500; ++step) {
      const std::string key(1, static_cast<char>('a' + random.Below(6)));
      const auto state = static_cast<AllocationState>(random.Below(3));
      const int64_t revision = ++revisions[key] - static_cast<int64_t>(random.Below(3));
      agent.OnMessage(
          Grant(key, revision, state,
                state == AllocationState::kRun ? static_cast<int64_t>(1 + random.Below(8)) : 0),
          0);
      for (const NodeAgent::Step& next : agent.NextSteps()) {
        if (random.Below(3) == 0) agent.Took(next.key, next.state);
        ASSERT_LE(agent.running_devices(), 8);
        if (random.Below(4) == 0) break;
      }
    }
  }
}

}  // namespace
}  // namespace tide::coordinator

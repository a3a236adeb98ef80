// Turn policies: the common laws and what each of them prefers.
#include "sched/turn_policy.h"

#include <map>

#include "contract/turn_policy_contract.h"

namespace tide::sched {
namespace {

INSTANTIATE_TEST_SUITE_P(EveryPolicy, TurnPolicyContract,
                         ::testing::Values(TurnPolicyId::kFair, TurnPolicyId::kFifo,
                                           TurnPolicyId::kRr, TurnPolicyId::kSrtf,
                                           TurnPolicyId::kPack, TurnPolicyId::kPriority),
                         [](const auto& info) { return TurnPolicyName(info.param); });

// Runs a lane of always ready members in simulated time and returns who ran, turn by turn.
std::vector<SlotId> Simulate(TurnPolicyId policy, std::vector<TurnMember>& members, int turns,
                             uint64_t seed, absl::Duration quantum = absl::ZeroDuration()) {
  Random random(seed);
  std::vector<SlotId> ran;
  TurnState state{.quantum = quantum};
  for (int turn = 0; turn < turns; ++turn) {
    const TurnDecision decision = NextTurn(policy, members, state);
    if (!decision.next) break;
    if (state.holder != decision.next) state.served_since_grant = absl::ZeroDuration();
    state.holder = decision.next;
    for (TurnMember& member : members) {
      if (member.id != *decision.next) continue;
      const absl::Duration took = member.last_iteration * (0.5 + random.Unit());
      Charge(member, took);
      ++member.iterations;
      state.served_since_grant += took;
      state.now += took;
    }
    ran.push_back(*decision.next);
  }
  return ran;
}

std::vector<TurnMember> Crowd(std::vector<double> weights) {
  std::vector<TurnMember> members(weights.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    members[i].id = SlotId(static_cast<int32_t>(i));
    members[i].joined = absl::Milliseconds(static_cast<int64_t>(i));
    members[i].weight = weights[i];
    members[i].ready = true;
    members[i].last_iteration = absl::Milliseconds(static_cast<int64_t>(1 + 7 * i));
  }
  return members;
}

int LongestWait(const std::vector<SlotId>& ran, SlotId who) {
  int longest = 0, waited = 0;
  for (SlotId id : ran) {
    waited = id == who ? 0 : waited + 1;
    longest = std::max(longest, waited);
  }
  return longest;
}

TEST(TurnPolicyTest, NamesAreReadBack) {
  for (uint32_t i = 0; i < kTurnPolicyCount; ++i) {
    const auto policy = static_cast<TurnPolicyId>(i);
    EXPECT_EQ(*ParseTurnPolicy(TurnPolicyName(policy)), policy);
  }
  const auto unknown = ParseTurnPolicy("fastest");
  EXPECT_TRUE(absl::IsInvalidArgument(unknown.status()));
  EXPECT_NE(unknown.status().message().find("srtf"), absl::string_view::npos);
}

TEST(TurnPolicyTest, ANumberOfANewerVersionDecidesAsFair) {
  std::vector<TurnMember> members = Crowd({1, 1});
  members[0].virtual_service = absl::Seconds(1);
  EXPECT_EQ(NextTurn(static_cast<TurnPolicyId>(77), members, {}).next, SlotId(1));
}

TEST(FairTest, SharesOfServiceConvergeToTheWeights) {
  std::vector<TurnMember> members = Crowd({1, 2, 4, 0.5});
  Simulate(TurnPolicyId::kFair, members, 20000, 11);
  absl::Duration total;
  for (const TurnMember& member : members) total += member.service;
  for (const TurnMember& member : members) {
    const double share = absl::FDivDuration(member.service, total);
    EXPECT_NEAR(share, member.weight / 7.5, 0.01) << "slot " << member.id.value();
  }
}

TEST(FairTest, NobodyStarves) {
  std::vector<TurnMember> members = Crowd({1, 1, 1, 1, 1});
  const std::vector<SlotId> ran = Simulate(TurnPolicyId::kFair, members, 5000, 12);
  for (const TurnMember& member : members) {
    // The longest iteration is 29 ms, the shortest 1 ms: nobody waits for more than what others
    // need to catch up.
    EXPECT_LT(LongestWait(ran, member.id), 200) << "slot " << member.id.value();
  }
}

TEST(FairTest, ANewcomerAtTheStartLineTakesItsShareAndNotMore) {
  std::vector<TurnMember> members = Crowd({1, 1});
  members[1].last_iteration = members[0].last_iteration;
  Simulate(TurnPolicyId::kFair, members, 10000, 13);
  TurnMember newcomer = members[0];
  newcomer.id = SlotId(7);
  newcomer.service = absl::ZeroDuration();
  newcomer.virtual_service = StartLine(members, newcomer.id);
  newcomer.iterations = StartRound(members, newcomer.id);
  members.push_back(newcomer);
  const std::vector<SlotId> ran = Simulate(TurnPolicyId::kFair, members, 300, 14);
  EXPECT_NEAR(static_cast<double>(std::count(ran.begin(), ran.end(), SlotId(7))), 100, 10);
}

TEST(RrTest, EveryoneRunsOnceARound) {
  std::vector<TurnMember> members = Crowd({1, 5, 1, 1});
  const std::vector<SlotId> ran = Simulate(TurnPolicyId::kRr, members, 400, 15);
  for (size_t i = 0; i < ran.size(); ++i) EXPECT_EQ(ran[i], SlotId(static_cast<int32_t>(i % 4)));
}

TEST(FifoTest, TheFirstRunsToItsEndAndOthersFillItsGaps) {
  std::vector<TurnMember> members = Crowd({1, 1, 1});
  for (SlotId id : Simulate(TurnPolicyId::kFifo, members, 50, 16)) EXPECT_EQ(id, SlotId(0));
  members[0].ready = false;
  EXPECT_EQ(NextTurn(TurnPolicyId::kFifo, members, {.holder = SlotId(0)}).next, SlotId(1));
  members[0].ready = true;
  EXPECT_EQ(NextTurn(TurnPolicyId::kFifo, members, {.holder = SlotId(1)}).next, SlotId(0));
}

TEST(SrtfTest, TheShortestRunsFirstAndTheUnknownLast) {
  std::vector<TurnMember> members = Crowd({1, 1, 1});
  members[1].remaining = absl::Seconds(90);
  members[2].remaining = absl::Seconds(30);
  EXPECT_EQ(NextTurn(TurnPolicyId::kSrtf, members, {}).next, SlotId(2));
  members[2].ready = false;
  EXPECT_EQ(NextTurn(TurnPolicyId::kSrtf, members, {}).next, SlotId(1));
  members[1].ready = false;
  EXPECT_EQ(NextTurn(TurnPolicyId::kSrtf, members, {}).next, SlotId(0));
  members[2].ready = true;
  members[0].learning = true;
  EXPECT_EQ(NextTurn(TurnPolicyId::kSrtf, members, {}).next, SlotId(0))
      << "a newcomer is measured before anything long goes on";
  members[0].remaining = absl::Seconds(60);
  EXPECT_EQ(NextTurn(TurnPolicyId::kSrtf, members, {}).next, SlotId(2))
      << "a newcomer whose length is known waits its turn as others do";
}

TEST(PackTest, TurnsGoAroundByArrivalQuantumByQuantum) {
  std::vector<TurnMember> members = Crowd({1, 1, 1});
  for (TurnMember& member : members) member.last_iteration = absl::Milliseconds(10);
  std::swap(members[0].joined, members[2].joined);  // arrival: 2, 1, 0
  const std::vector<SlotId> ran =
      Simulate(TurnPolicyId::kPack, members, 200, 17, absl::Milliseconds(40));
  std::vector<SlotId> order;
  for (SlotId id : ran) {
    if (order.empty() || order.back() != id) order.push_back(id);
  }
  ASSERT_GE(order.size(), 9u);
  for (size_t i = 0; i < order.size(); ++i) {
    EXPECT_EQ(order[i], SlotId(2 - static_cast<int32_t>(i % 3)));
  }
  EXPECT_GE(ran.size(), 2 * order.size())
      << "a quantum of 40 ms holds at least two 15 ms iterations";
}

TEST(PriorityTest, AHigherOneTakesTheTurnInsideAQuantumAndEqualsShare) {
  std::vector<TurnMember> members = Crowd({1, 1, 1});
  members[2].priority = Priority::kGuaranteed;
  const TurnState inside{.holder = SlotId(0), .quantum = absl::Seconds(1)};
  EXPECT_EQ(NextTurn(TurnPolicyId::kPriority, members, inside).next, SlotId(2));
  members[2].ready = false;
  EXPECT_EQ(NextTurn(TurnPolicyId::kPriority, members, inside).next, SlotId(0));
  members[0].virtual_service = absl::Milliseconds(5);
  EXPECT_EQ(NextTurn(TurnPolicyId::kPriority, members, {.holder = SlotId(0)}).next, SlotId(1));
}

}  // namespace
}  // namespace tide::sched

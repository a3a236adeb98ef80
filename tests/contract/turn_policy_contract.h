// The laws that every turn policy obeys, whatever it prefers.
#pragma once

#include <algorithm>
#include <vector>

#include "base/random.h"
#include "gtest/gtest.h"
#include "sched/turn_policy.h"

namespace tide::sched {

/// A random lane: up to 12 members with scattered ids, some of them ready.
inline std::vector<TurnMember> RandomMembers(Random& random) {
  std::vector<TurnMember> members(random.Below(13));
  for (size_t i = 0; i < members.size(); ++i) {
    TurnMember& member = members[i];
    member.id = SlotId(static_cast<int32_t>(i * 21 + random.Below(21)));
    member.joined = absl::Milliseconds(static_cast<int64_t>(random.Below(5)));
    member.virtual_service = absl::Milliseconds(static_cast<int64_t>(random.Below(4)));
    member.service = member.virtual_service;
    member.iterations = static_cast<int64_t>(random.Below(3));
    if (random.Below(2) == 0) {
      member.remaining = absl::Seconds(static_cast<int64_t>(random.Below(3)));
    }
    member.weight = 0.5 + random.Unit();
    member.priority = static_cast<Priority>(random.Below(3));
    member.ready = random.Below(3) != 0;
  }
  return members;
}

inline TurnState RandomState(Random& random, const std::vector<TurnMember>& members) {
  TurnState state;
  if (!members.empty() && random.Below(4) != 0) {
    state.holder = members[random.Below(members.size())].id;
  } else if (random.Below(2) == 0) {
    state.holder = SlotId(255);  // has left
  }
  state.now = absl::Seconds(10);
  state.quantum = absl::Milliseconds(static_cast<int64_t>(random.Below(3)));
  state.served_since_grant = absl::Milliseconds(static_cast<int64_t>(random.Below(3)));
  return state;
}

class TurnPolicyContract : public ::testing::TestWithParam<TurnPolicyId> {
 protected:
  static constexpr int kCases = 3000;
  TurnDecision Decide(const std::vector<TurnMember>& members, const TurnState& state) const {
    return NextTurn(GetParam(), members, state);
  }
};

TEST_P(TurnPolicyContract, NamesAReadyMemberWheneverThereIsOneAndNobodyElse) {
  for (uint64_t seed = 1; seed <= kCases; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const std::vector<TurnMember> members = RandomMembers(random);
    const TurnDecision decision = Decide(members, RandomState(random, members));
    const auto ready = [](const TurnMember& member) { return member.ready; };
    ASSERT_EQ(decision.next.has_value(), std::any_of(members.begin(), members.end(), ready));
    ASSERT_STRNE(decision.reason, "");
    if (!decision.next) continue;
    ASSERT_EQ(std::count_if(members.begin(), members.end(),
                            [&](const TurnMember& m) { return m.ready && m.id == *decision.next; }),
              1);
  }
}

TEST_P(TurnPolicyContract, DoesNotDependOnTheOrderInWhichMembersAreListed) {
  for (uint64_t seed = 1; seed <= kCases; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    std::vector<TurnMember> members = RandomMembers(random);
    const TurnState state = RandomState(random, members);
    const TurnDecision before = Decide(members, state);
    for (size_t i = members.size(); i > 1; --i) std::swap(members[i - 1], members[random.Below(i)]);
    const TurnDecision after = Decide(members, state);
    ASSERT_EQ(before.next, after.next);
    ASSERT_STREQ(before.reason, after.reason);
  }
}

TEST_P(TurnPolicyContract, ALearningHolderKeepsTheTurnForABoundedTime) {
  TurnMember learner{.id = SlotId(0), .ready = true, .learning = true};
  TurnMember other{.id = SlotId(1), .ready = true};
  learner.virtual_service = absl::Seconds(9);  // every policy but fifo and pack would pass it on
  learner.iterations = 9;
  learner.remaining = absl::Seconds(9);
  TurnState state{.holder = learner.id, .now = absl::Seconds(30)};
  state.served_since_grant = kLearningMax - absl::Seconds(1);
  EXPECT_EQ(Decide({learner, other}, state).next, learner.id);
  other.priority = Priority::kGuaranteed;
  const bool by_priority = GetParam() == TurnPolicyId::kPriority;
  EXPECT_EQ(Decide({learner, other}, state).next, by_priority ? other.id : learner.id);
  state.served_since_grant = kLearningMax;
  learner.learning = false;
  const TurnDecision learnt = Decide({learner, other}, state);
  learner.learning = true;
  EXPECT_EQ(Decide({learner, other}, state).next, learnt.next) << "its time is over";
}

TEST_P(TurnPolicyContract, AReadyHolderKeepsTheTurnForItsQuantumUnlessAHigherPriorityIsReady) {
  for (uint64_t seed = 1; seed <= kCases; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    std::vector<TurnMember> members = RandomMembers(random);
    if (members.empty()) continue;
    TurnState state = RandomState(random, members);
    TurnMember& holder = members[random.Below(members.size())];
    holder.ready = true;
    holder.priority = Priority::kGuaranteed;
    state.holder = holder.id;
    state.quantum = absl::Milliseconds(2);
    state.served_since_grant = absl::Milliseconds(1);
    ASSERT_EQ(Decide(members, state).next, holder.id);
  }
}

TEST_P(TurnPolicyContract, SurvivesManyMembersWithEqualNumbers) {
  std::vector<TurnMember> members(256);
  for (int i = 0; i < 256; ++i) {
    members[i].id = SlotId(i);
    members[i].ready = i >= 100;
  }
  EXPECT_TRUE(Decide(members, TurnState{.holder = SlotId(200)}).next.has_value());
  for (TurnMember& member : members) member.ready = false;
  EXPECT_FALSE(Decide(members, TurnState{.holder = SlotId(200)}).next.has_value());
}

}  // namespace tide::sched

// The choice of who gives memory back.
#include "sched/victims.h"

#include "base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tide::sched {
namespace {

VictimMember Job(int id, int64_t resident_mib, Priority priority = Priority::kNormal) {
  VictimMember member;
  member.id = SlotId(id);
  member.resident = MiB(resident_mib);
  member.reclaimable = MiB(resident_mib);
  member.priority = priority;
  return member;
}

std::vector<std::pair<int, int64_t>> Taken(const VictimChoice& choice) {
  std::vector<std::pair<int, int64_t>> taken;
  for (const Victim& victim : choice.victims) {
    taken.emplace_back(victim.id.value(), victim.bytes.value() >> 20);
  }
  return taken;
}

using Pairs = std::vector<std::pair<int, int64_t>>;

TEST(VictimsTest, OpportunisticJobsGiveBeforeNormalOnes) {
  const std::vector<VictimMember> jobs = {Job(1, 100), Job(2, 100, Priority::kOpportunistic),
                                          Job(3, 100)};
  const VictimChoice choice = ChooseVictims(jobs, MiB(120), SlotId(3));
  EXPECT_EQ(Taken(choice), (Pairs{{2, 100}, {1, 20}}));
  EXPECT_EQ(choice.shortfall, Bytes(0));
  EXPECT_EQ(choice.reason, "needs 120 MiB: 2 of 3 jobs give 120 MiB above their guaranteed shares");
}

TEST(VictimsTest, NothingBelowAGuaranteedShareIsTakenAndTheShortfallIsNamed) {
  std::vector<VictimMember> jobs = {Job(1, 100), Job(2, 50)};
  jobs[0].guaranteed = MiB(70);
  jobs[1].reclaimable = MiB(10);
  const VictimChoice choice = ChooseVictims(jobs, MiB(100), SlotId(3));
  EXPECT_EQ(Taken(choice), (Pairs{{1, 30}, {2, 10}}));
  EXPECT_EQ(choice.shortfall, MiB(60));
  EXPECT_THAT(choice.reason, ::testing::HasSubstr("60 MiB are missing"));
}

TEST(VictimsTest, WhoRunsAgainLatestGivesFirstThenWhoRanLongestAgo) {
  std::vector<VictimMember> jobs = {Job(1, 10), Job(2, 10), Job(3, 10), Job(4, 10)};
  jobs[0].turns_until_next = 1;
  jobs[1].turns_until_next = 3;
  jobs[2].last_run = absl::Seconds(9);
  jobs[3].last_run = absl::Seconds(5);
  const VictimChoice choice = ChooseVictims(jobs, MiB(40), SlotId(9));
  EXPECT_EQ(Taken(choice), (Pairs{{4, 10}, {3, 10}, {2, 10}, {1, 10}}));
}

TEST(VictimsTest, GuaranteedJobsAndJobsOfHigherPriorityAreSpared) {
  const std::vector<VictimMember> jobs = {Job(1, 100, Priority::kGuaranteed), Job(2, 100),
                                          Job(3, 100, Priority::kOpportunistic),
                                          Job(4, 100, Priority::kOpportunistic)};
  EXPECT_EQ(Taken(ChooseVictims(jobs, MiB(500), SlotId(3))), (Pairs{{4, 100}}));
  EXPECT_EQ(Taken(ChooseVictims(jobs, MiB(500), SlotId(1))), (Pairs{{3, 100}, {4, 100}, {2, 100}}));
}

TEST(VictimsTest, NoNeedTakesNothing) {
  EXPECT_TRUE(ChooseVictims({Job(1, 100)}, Bytes(0), SlotId(2)).victims.empty());
  EXPECT_TRUE(ChooseVictims({Job(1, 100)}, MiB(-5), SlotId(2)).victims.empty());
}

TEST(VictimsTest, WhatIsTakenPlusTheShortfallIsTheNeedInWholePages) {
  for (uint64_t seed = 1; seed <= 2000; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    std::vector<VictimMember> jobs;
    const int count = static_cast<int>(random.Below(10));
    for (int i = 0; i < count; ++i) {
      VictimMember job = Job(i, 0, static_cast<Priority>(random.Below(3)));
      job.resident = Bytes(static_cast<int64_t>(random.Below(uint64_t{1} << 30)));
      job.guaranteed = Bytes(static_cast<int64_t>(random.Below(uint64_t{1} << 29)));
      job.reclaimable = Bytes(static_cast<int64_t>(random.Below(uint64_t{1} << 30)));
      job.last_run = absl::Seconds(static_cast<int64_t>(random.Below(100)));
      jobs.push_back(job);
    }
    const Bytes need(static_cast<int64_t>(1 + random.Below(uint64_t{1} << 31)));
    const VictimChoice choice = ChooseVictims(jobs, need, SlotId(0));
    Bytes taken;
    for (const Victim& victim : choice.victims) {
      ASSERT_NE(victim.id, SlotId(0));
      ASSERT_GT(victim.bytes, Bytes(0));
      ASSERT_EQ(victim.bytes.value() % kPage.value(), 0);
      const VictimMember& job = jobs[victim.id.value()];
      ASSERT_LE(victim.bytes, job.reclaimable);
      ASSERT_GE(job.resident - victim.bytes, job.guaranteed);
      taken += victim.bytes;
    }
    ASSERT_GE(choice.shortfall, Bytes(0));
    ASSERT_EQ(taken + choice.shortfall, PagesFor(need).bytes());
  }
}

}  // namespace
}  // namespace tide::sched

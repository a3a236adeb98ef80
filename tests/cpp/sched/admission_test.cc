// Salus's rule on examples, and its laws on random devices.
#include "sched/admission.h"

#include <algorithm>
#include <map>

#include "base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tide::sched {
namespace {

using ::testing::HasSubstr;

AdmissionMember Job(int id, int64_t persistent_mib, int64_t scratch_mib, int lane) {
  AdmissionMember member;
  member.id = SlotId(id);
  member.joined = absl::Seconds(id);
  member.persistent = MiB(persistent_mib);
  member.scratch = MiB(scratch_mib);
  member.lane = lane;
  member.measured = true;
  return member;
}

std::vector<AdmissionMember> RandomDevice(Random& random) {
  std::vector<AdmissionMember> members;
  const int count = 1 + static_cast<int>(random.Below(8));
  for (int i = 0; i < count; ++i) {
    AdmissionMember member =
        Job(i, static_cast<int64_t>(random.Below(500)), static_cast<int64_t>(random.Below(300)),
            static_cast<int>(random.Below(4)) - 1);
    member.measured = random.Below(4) > 0;
    member.queued = i > 0 && random.Below(4) == 0;
    member.priority = static_cast<Priority>(random.Below(3));
    members.push_back(member);
  }
  return members;
}

// What the device needs when `self` runs on `lane`, counted from scratch.
Bytes Need(const std::vector<AdmissionMember>& members, SlotId self, int lane) {
  Bytes sum;
  std::map<int, Bytes> scratch;
  for (const AdmissionMember& member : members) {
    if (member.queued && member.id != self) continue;
    sum += member.persistent;
    const int at = member.id == self ? lane : member.lane;
    if (at >= 0) scratch[at] = std::max(scratch[at], member.scratch);
  }
  for (const auto& [id, bytes] : scratch) sum += bytes;
  return sum;
}

TEST(AdmissionTest, LanesOfOneShareTheLargestScratchOnly) {
  const std::vector<AdmissionMember> jobs = {Job(0, 100, 300, 0), Job(1, 100, 250, 0)};
  const AdmissionDecision decision = Admit(jobs, SlotId(1), {.capacity = MiB(500)});
  EXPECT_TRUE(decision.admit && decision.fits);
  EXPECT_EQ(decision.needed, MiB(500));
  EXPECT_THAT(decision.reason, HasSubstr("persistent 100 MiB and scratch 250 MiB beside 1 job"));
}

TEST(AdmissionTest, ANewLaneIsOpenedWhenItFitsAndElseTheOneThatHoldsTheScratchIsShared) {
  const std::vector<AdmissionMember> jobs = {Job(0, 100, 300, 0), Job(1, 100, 250, -1)};
  EXPECT_EQ(Admit(jobs, SlotId(1), {.capacity = MiB(800), .lanes_max = 2}).lane, 1);
  EXPECT_EQ(Admit(jobs, SlotId(1), {.capacity = MiB(600), .lanes_max = 2}).lane, 0);
  EXPECT_EQ(Admit(jobs, SlotId(1), {.capacity = MiB(800), .lanes_max = 1}).lane, 0);
}

TEST(AdmissionTest, ALaneThatWasAskedForIsKept) {
  const std::vector<AdmissionMember> jobs = {Job(0, 100, 300, 0), Job(1, 100, 250, -1)};
  const AdmissionDecision decision =
      Admit(jobs, SlotId(1), {.capacity = MiB(500), .lanes_max = 2, .lane_fixed = 5});
  EXPECT_EQ(decision.lane, 5);
  EXPECT_EQ(decision.needed, MiB(750));
  EXPECT_FALSE(decision.fits);
}

TEST(AdmissionTest, WhatDoesNotFitWaitsOrRunsWithPagesOut) {
  const std::vector<AdmissionMember> jobs = {Job(0, 300, 100, 0), Job(1, 300, 100, -1)};
  const AdmissionDecision waits = Admit(jobs, SlotId(1), {.capacity = MiB(500), .queue = true});
  EXPECT_FALSE(waits.admit);
  EXPECT_THAT(waits.reason, HasSubstr("waits until jobs end"));
  const AdmissionDecision runs = Admit(jobs, SlotId(1), {.capacity = MiB(500)});
  EXPECT_TRUE(runs.admit);
  EXPECT_FALSE(runs.fits);
  EXPECT_THAT(runs.reason, HasSubstr("200 MiB of pages that are not in use will be out"));
}

TEST(AdmissionTest, AJobTooLargeForTheDeviceRunsOnceItIsAlone) {
  const std::vector<AdmissionMember> jobs = {Job(0, 900, 100, -1)};
  EXPECT_TRUE(Admit(jobs, SlotId(0), {.capacity = MiB(500), .queue = true}).admit);
}

TEST(AdmissionTest, TheQueueGoesByPriorityAndThenByArrival) {
  std::vector<AdmissionMember> jobs = {Job(0, 10, 10, -1), Job(1, 10, 10, -1), Job(2, 10, 10, -1)};
  for (AdmissionMember& job : jobs) job.queued = true;
  jobs[2].priority = Priority::kGuaranteed;
  const AdmissionOptions options = {.capacity = MiB(500), .queue = true};
  EXPECT_FALSE(Admit(jobs, SlotId(0), options).admit);
  EXPECT_TRUE(Admit(jobs, SlotId(2), options).admit);
  jobs[2].queued = false;
  EXPECT_TRUE(Admit(jobs, SlotId(0), options).admit);
  EXPECT_THAT(Admit(jobs, SlotId(1), options).reason, HasSubstr("came before it"));
}

TEST(AdmissionTest, AnUnmeasuredJobLearnsOnTheEmptiestLane) {
  std::vector<AdmissionMember> jobs = {Job(0, 100, 300, 0), Job(1, 0, 0, -1)};
  jobs[1].measured = false;
  const AdmissionDecision decision =
      Admit(jobs, SlotId(1), {.capacity = MiB(100), .lanes_max = 2, .queue = true});
  EXPECT_TRUE(decision.admit);
  EXPECT_EQ(decision.lane, 1);
}

TEST(AdmissionLawsTest, WhatIsSaidToFitFitsAndWhatFitsSomewhereIsFound) {
  for (uint64_t seed = 1; seed <= 20'000; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const std::vector<AdmissionMember> members = RandomDevice(random);
    AdmissionOptions options;
    options.capacity =
        random.Below(5) == 0 ? Bytes(0) : MiB(static_cast<int64_t>(random.Below(2000)));
    options.lanes_max = 1 + static_cast<int>(random.Below(3));
    options.queue = random.Below(2) == 0;
    const SlotId self(static_cast<int>(random.Below(members.size())));
    const AdmissionDecision decision = Admit(members, self, options);
    ASSERT_GE(decision.lane, 0);
    ASSERT_LT(decision.lane, options.lanes_max);
    EXPECT_FALSE(decision.reason.empty());
    if (!members[self.value()].measured) {
      EXPECT_TRUE(decision.admit);
      continue;
    }
    EXPECT_EQ(decision.needed, Need(members, self, decision.lane));
    bool somewhere = options.capacity == Bytes(0);
    for (int lane = 0; lane < options.lanes_max; ++lane)
      somewhere |= Need(members, self, lane) <= options.capacity;
    EXPECT_EQ(decision.fits, somewhere);
    if (!options.queue) {
      EXPECT_TRUE(decision.admit);
    }
    if (HasFailure()) return;
  }
}

TEST(AdmissionLawsTest, SomebodyIsAlwaysAdmittedOnceTheOthersHaveEnded) {
  for (uint64_t seed = 1; seed <= 5'000; ++seed) {
    Random random(seed);
    std::vector<AdmissionMember> members = RandomDevice(random);
    for (AdmissionMember& member : members) member.queued = member.measured = true;
    const AdmissionOptions options = {.capacity = MiB(1), .queue = true};
    const auto admitted = std::count_if(members.begin(), members.end(), [&](const auto& member) {
      return Admit(members, member.id, options).admit;
    });
    EXPECT_EQ(admitted, 1) << "seed " << seed;
  }
}

}  // namespace
}  // namespace tide::sched

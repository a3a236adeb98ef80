// Machines that go back: by least preemption cost, elastic jobs shrink first.
#include "sched/reclaim.h"

#include "base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tide::sched {
namespace {

using ::testing::ElementsAre;

JobView Held(int gpus, int least = 0) {
  JobView job;
  job.gpus = job.held = gpus;
  job.state = JobState::kRunning;
  if (least > 0) {
    job.gpus_min = least;
    job.gpus_max = gpus;
    job.profile = 0;
  }
  return job;
}

const Profiles& Known() {
  static const auto& profiles = *new Profiles{.of = {{.speed = {1, 2, 3, 4}}}};
  return profiles;
}

LentShare Share(int job, int gpus) { return {.job = JobIndex(job), .gpus = gpus}; }

TEST(ReclaimTest, AnEmptyMachineGoesBeforeOneThatAnElasticJobCanLeaveAndThatBeforeARigidJobs) {
  const std::vector<JobView> jobs = {Held(2), Held(4, 2), Held(2)};
  const std::vector<int> nodes = {1, 2, 1};
  const std::vector<LentNode> lent = {{.node = 4, .shares = {Share(0, 2)}},
                                      {.node = 5, .shares = {Share(1, 2)}},
                                      {.node = 6},
                                      {.node = 7, .shares = {Share(1, 2), Share(2, 2)}}};
  ReclaimInput input{
      .lent = lent, .count = 1, .jobs = jobs, .nodes_of_jobs = nodes, .profiles = &Known()};
  EXPECT_THAT(LeastPreemption(input), ElementsAre(6));
  input.count = 3;
  // The elastic job has left 5 with two GPUs; then 4 costs one job, 7 one and a half.
  EXPECT_THAT(LeastPreemption(input), ElementsAre(6, 5, 4));
  input.count = 9;
  EXPECT_THAT(LeastPreemption(input), ElementsAre(6, 5, 4, 7));
}

TEST(ReclaimTest, TheOtherMachinesOfAJobThatWasStoppedCostNothing) {
  const std::vector<JobView> jobs = {Held(8), Held(2), Held(2)};
  const std::vector<int> nodes = {2, 1, 1};
  const std::vector<LentNode> lent = {{.node = 1, .shares = {Share(1, 2)}},
                                      {.node = 2, .shares = {Share(0, 4)}},
                                      {.node = 3, .shares = {Share(2, 2)}},
                                      {.node = 4, .shares = {Share(0, 4)}}};
  EXPECT_THAT(LeastPreemption({.lent = lent, .count = 2, .jobs = jobs, .nodes_of_jobs = nodes}),
              ElementsAre(4, 2));
}

// Where every job is on one machine the costs add up, and the least sum is known.
TEST(ReclaimTest, StopsAsFewJobsAsPossibleWhenEachIsOnOneMachine) {
  for (uint64_t seed = 1; seed <= 1000; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    std::vector<JobView> jobs;
    std::vector<LentNode> lent(1 + random.Below(8));
    std::vector<int> counts;
    for (size_t node = 0; node < lent.size(); ++node) {
      lent[node].node = static_cast<int>(node);
      const int on = static_cast<int>(random.Below(5));
      for (int i = 0; i < on; ++i) {
        lent[node].shares.push_back(Share(static_cast<int>(jobs.size()), 1));
        jobs.push_back(Held(1));
      }
      counts.push_back(on);
    }
    const std::vector<int> nodes(jobs.size(), 1);
    const int count = static_cast<int>(random.Below(lent.size() + 1));
    const std::vector<int> chosen =
        LeastPreemption({.lent = lent, .count = count, .jobs = jobs, .nodes_of_jobs = nodes});
    ASSERT_EQ(chosen.size(), static_cast<size_t>(count));
    int stopped = 0, least = 0;
    for (const int node : chosen) stopped += counts[node];
    std::sort(counts.begin(), counts.end());
    for (int i = 0; i < count; ++i) least += counts[i];
    ASSERT_EQ(stopped, least);
  }
}

}  // namespace
}  // namespace tide::sched

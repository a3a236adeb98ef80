// Policies that let jobs share GPUs, types of GPU and quotas: worked examples.
#include "cpp/sim/traces_for_tests.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sched/linear_program.h"
#include "sched/protected_share.h"
#include "sim/summary.h"

namespace tide::sim {
namespace {

using sched::JobTier;
using ::testing::DoubleNear;
using ::testing::ElementsAre;

sched::JobView With(int profile, sched::JobView job) {
  job.profile = profile;
  return job;
}

absl::StatusOr<ReplayResult> RunPolicy(const Trace& trace, const std::string& policy, int gpus,
                                       const sched::ClusterPolicyOptions& options = {}) {
  return Replay(trace, *sched::MakeClusterPolicy(policy, options),
                {.cluster = {.gpus_per_node = gpus}});
}

TEST(SharingPoliciesTest, MuriGroupsJobsWhoseStagesInterleave) {
  // Four jobs, each busy with a stage of its own: in a group none is slower than alone.
  Trace trace;
  for (int i = 0; i < 4; ++i) {
    sched::JobProfile profile;
    profile.stage_s[i] = 1;
    trace.profiles.of.push_back(profile);
    trace.jobs.push_back(With(i, JobOf(0, 1, 400)));
    trace.job_ids.push_back(std::to_string(i));
  }
  for (const char* policy : {"muri-s", "muri-l"}) {
    const auto result = RunPolicy(trace, policy, 1);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_THAT(result->jct_s, ElementsAre(400, 400, 400, 400)) << policy;
    EXPECT_EQ(result->shared_starts, 3);
  }
}

TEST(SharingPoliciesTest, MuriLeavesJobsAloneThatWouldWaitForTheSameStage) {
  Trace trace = TraceOf({With(0, JobOf(0, 1, 300)), With(0, JobOf(0, 1, 100))});
  trace.profiles.of = {{.stage_s = {0, 0, 1, 0}}};
  const auto result = RunPolicy(trace, "muri-s", 1);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->jct_s, ElementsAre(400, 100));
  EXPECT_EQ(result->shared_starts, 0);
}

TEST(SharingPoliciesTest, LucidPairsLightJobsAndNeverPreempts) {
  Trace trace =
      TraceOf({With(0, JobOf(0, 1, 100)), With(0, JobOf(1, 1, 100)), With(1, JobOf(2, 1, 100))});
  trace.profiles.of = {{.busy = 0.4}, {.busy = 1}};
  const auto result = RunPolicy(trace, "lucid", 1);
  ASSERT_TRUE(result.ok()) << result.status();
  // The two light ones run together at full speed; at 100 the heavy one joins the second for its
  // last second, which takes 1.4.
  EXPECT_THAT(result->jct_s, ElementsAre(100, DoubleNear(100.4, 1e-9), DoubleNear(198.4, 1e-9)));
  EXPECT_EQ(result->preemptions, 0);
}

TEST(SharingPoliciesTest, SalusAdmitsByWhatStaysAndTheLargestScratch) {
  // Each keeps 3 GiB and needs 6 more in an iteration: two fit into 12, a third does not.
  Trace trace =
      TraceOf({With(0, JobOf(0, 1, 100)), With(0, JobOf(0, 1, 100)), With(0, JobOf(0, 1, 100))});
  trace.profiles.of = {{.busy = 0.5, .memory_gib = 3, .scratch_gib = 6}};
  trace.profiles.gpu_memory_gib = 12;
  const auto result = RunPolicy(trace, "salus", 1);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->shared_starts, 1);
  EXPECT_EQ(result->jct_s.size(), 3u);
}

TEST(SharingPoliciesTest, APaceRisesByStepsAndIsHalvedWhenTheHostSlows) {
  const sched::ProtectedShareOptions options;
  EXPECT_NEAR(sched::NextPace(0.2, 1, options), 0.25, 1e-12);
  EXPECT_NEAR(sched::NextPace(0.2, 0.9, options), 0.1, 1e-12);
  EXPECT_EQ(sched::NextPace(0.99, 1, options), 1);
  EXPECT_EQ(sched::NextPace(0.01, 0.5, options), 0.01);
}

TEST(SharingPoliciesTest, AGuestHarvestsIdleTimeAndTheProtectedJobLosesLittle) {
  for (const char* policy : {"tgs", "antman"}) {
    Trace trace = TraceOf({With(0, JobOf(0, 1, 10000)), With(0, JobOf(1, 1, 2000))});
    trace.jobs[0].tier = JobTier::kGuaranteed;
    trace.jobs[1].tier = JobTier::kOpportunistic;
    trace.profiles.of = {{.busy = 0.6}};
    const auto result = RunPolicy(trace, policy, 1);
    ASSERT_TRUE(result.ok()) << result.status();
    // 0.4 of the time are left, of which a guest that is busy 0.6 of its own makes up to 0.66.
    EXPECT_LT(result->jct_s[0], 10000 * 1.05) << policy;
    EXPECT_LT(result->jct_s[1], 6000) << policy;
  }
}

TEST(SharingPoliciesTest, GandivaSlicesTimePairsLightJobsAndLetsIdleGpusBeUsed) {
  const auto sliced = RunPolicy(TraceOf({JobOf(0, 1, 600), JobOf(0, 1, 600)}), "gandiva", 1);
  ASSERT_TRUE(sliced.ok()) << sliced.status();
  EXPECT_THAT(sliced->jct_s, ElementsAre(1140, 1200));  // minutes in turns
  Trace light = TraceOf({With(0, JobOf(0, 1, 600)), With(0, JobOf(0, 1, 600))});
  light.profiles.of = {{.busy = 0.5}};
  const auto paired = RunPolicy(light, "gandiva", 1);
  ASSERT_TRUE(paired.ok()) << paired.status();
  EXPECT_THAT(paired->jct_s, ElementsAre(600, 600));
  Trace growing = TraceOf({JobOf(0, 1, 100), JobOf(0, 1, 10)});
  growing.jobs[0].gpus_min = 1;
  growing.jobs[0].gpus_max = 2;
  growing.jobs[0].profile = 0;
  growing.profiles.of = {{.speed = {1, 2}}};
  const auto grown = RunPolicy(growing, "gandiva", 2);
  ASSERT_TRUE(grown.ok()) << grown.status();
  EXPECT_THAT(grown->jct_s, ElementsAre(DoubleNear(55, 1e-9), 10));
}

TEST(SharingPoliciesTest, PhillyLendsQuotasAndTakesThemBackFromTheNewest) {
  // Users 0 and 1 own two GPUs each; user 0 borrows all four, then user 1 claims its own.
  std::vector<sched::JobView> jobs = {JobOf(0, 1, 100), JobOf(1, 1, 100), JobOf(2, 1, 100),
                                      JobOf(3, 1, 100), JobOf(10, 2, 50)};
  jobs[4].user = 1;
  const auto result = RunPolicy(TraceOf(jobs), "philly", 4, {.quotas = {2, 2}});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->jct_s, ElementsAre(100, 100, 150, 150, 50));
  EXPECT_EQ(result->preemptions, 2);
}

TEST(SharingPoliciesTest, PhillyHoldsAGangForAWhileRatherThanSpreadIt) {
  // Two nodes with one free GPU each: the gang waits 180 s for a node, then is spread.
  const std::vector<sched::JobView> jobs = {JobOf(0, 1, 1000), JobOf(0, 2, 10), JobOf(0, 1, 1000),
                                            JobOf(1, 2, 100)};
  const auto result = Replay(TraceOf(jobs), *sched::MakeClusterPolicy("philly"),
                             {.cluster = {.nodes = 2, .gpus_per_node = 2}});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->jct_s, ElementsAre(1000, 10, 1000, 109));
}

// Two nodes with three GPUs taken each; the third gang is spread, at half its speed.
absl::StatusOr<ReplayResult> RunSpread(const char* policy, double first_s, double restart_cost_s) {
  const Trace trace = TraceOf({JobOf(0, 3, first_s), JobOf(0, 3, 1000), JobOf(0, 2, 400)});
  return Replay(trace, *sched::MakeClusterPolicy(policy, {.restart_cost_s = restart_cost_s}),
                {.cluster = {.nodes = 2, .gpus_per_node = 4, .spread_speed = 0.5}});
}

TEST(SharingPoliciesTest, GandivaAndPhillyMoveAGangToOneNodeWhenThatHasRoom) {
  const auto gandiva = RunSpread("gandiva", 100, 0);
  ASSERT_TRUE(gandiva.ok()) << gandiva.status();
  // By 100 it has done 50 s of its work; it has lost as much, more than 30 s.
  EXPECT_THAT(gandiva->jct_s, ElementsAre(100, 1000, 100 + 350));
  EXPECT_EQ(gandiva->preemptions, 1);
  const auto philly = RunSpread("philly", 300, 0);
  ASSERT_TRUE(philly.ok()) << philly.status();
  // It insists on one node until 180.
  EXPECT_THAT(philly->jct_s, ElementsAre(300, 1000, 300 + 340));
  EXPECT_EQ(philly->preemptions, 1);
}

TEST(SharingPoliciesTest, NobodyIsMovedWhoHasLostLessThanAMoveCosts) {
  const auto gandiva = RunSpread("gandiva", 100, 60);
  ASSERT_TRUE(gandiva.ok()) << gandiva.status();
  EXPECT_THAT(gandiva->jct_s, ElementsAre(100, 1000, 800));
  EXPECT_EQ(gandiva->preemptions, 0);
}

TEST(SharingPoliciesTest, LucidProfilesSmallGangsFirstAndShortJobsEndThere) {
  // Two of four GPUs are the profiler's; the job of two waits there for the two of one.
  const Trace trace = TraceOf({JobOf(0, 1, 30), JobOf(0, 1, 200), JobOf(0, 2, 100)});
  const auto result = RunPolicy(trace, "lucid", 4, {.profiler_gpus = 2, .profiler_limit_s = 50});
  ASSERT_TRUE(result.ok()) << result.status();
  // The second goes on beside the profiler at 50; there the third follows it, until 100, and waits
  // for the other two GPUs until 200.
  EXPECT_THAT(result->jct_s, ElementsAre(30, 200, 250));
  EXPECT_EQ(result->preemptions, 2);
}

TEST(SharingPoliciesTest, LucidProfilesNobodyWhileAGangWaitsThatNeedsTheProfilersGpus) {
  const Trace trace = TraceOf({JobOf(0, 1, 200), JobOf(5, 4, 10), JobOf(6, 2, 100)});
  const auto result = RunPolicy(trace, "lucid", 4, {.profiler_gpus = 2, .profiler_limit_s = 50});
  ASSERT_TRUE(result.ok()) << result.status();
  // The gang of four runs from 200 to 210, then the third is profiled.
  EXPECT_THAT(result->jct_s, ElementsAre(200, 205, 304));
}

TEST(SharingPoliciesTest, LucidLosesNobodyWithAProfilerThoughNodesFail) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const Trace trace = RichTrace(random, 6);
    ClusterSpec cluster{.nodes = 4, .gpus_per_node = 2, .restart_cost_s = 3};
    for (int i = 0; i < 4; ++i) {
      cluster.faults.push_back({.node = static_cast<int>(random.Below(4)),
                                .at_s = static_cast<double>(random.Below(2000)),
                                .for_s = static_cast<double>(1 + random.Below(300))});
    }
    const auto result = Replay(
        trace, *sched::MakeClusterPolicy("lucid", {.profiler_gpus = 2, .profiler_limit_s = 40}),
        {.cluster = cluster});
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->jct_s.size(), trace.jobs.size());
  }
}

TEST(SharingPoliciesTest, SynergyGivesCpusToTheJobThatCanUseThem) {
  Trace trace = TraceOf({With(0, JobOf(0, 2, 100)), With(1, JobOf(0, 2, 100))});
  trace.profiles.of.resize(2);
  trace.profiles.of[0].cpu_speed = {{3, 0.5}, {6, 1}};
  trace.profiles.of[1].cpu_speed = {{1, 1}};
  const ClusterSpec cluster{.gpus_per_node = 4, .cpus_per_node = 12};
  const auto synergy = Replay(trace, *sched::MakeClusterPolicy("synergy"), {.cluster = cluster});
  const auto even = Replay(trace, *sched::MakeClusterPolicy("srtf"), {.cluster = cluster});
  ASSERT_TRUE(synergy.ok() && even.ok()) << synergy.status() << even.status();
  // Ten CPUs for two GPUs until the other ends at 100, then all twelve; in proportion six.
  EXPECT_THAT(synergy->jct_s, ElementsAre(DoubleNear(100 + 100 / 6.0, 1e-9), 100));
  EXPECT_THAT(even->jct_s, ElementsAre(200, 100));
}

TEST(SharingPoliciesTest, GavelRunsEachJobOnTheTypeThatSuitsIt) {
  if (!sched::CheckLinearSolver().ok()) GTEST_SKIP() << sched::CheckLinearSolver();
  // Both types are equally fast for the first; the second is lost on the slow one.
  Trace trace = TraceOf({With(0, JobOf(0, 1, 1000)), With(1, JobOf(0, 1, 1000))});
  trace.profiles.of = {{.type_speed = {1, 1}}, {.type_speed = {1, 0.1}}};
  ClusterSpec cluster;
  cluster.types = {{.name = "fast", .cost = 2}, {.name = "slow", .cost = 1}};
  for (const char* policy : {"gavel-max-min", "gavel-makespan", "gavel-throughput",
                             "gavel-water-filling", "gavel-finish-time"}) {
    const auto result = Replay(trace, *sched::MakeClusterPolicy(policy), {.cluster = cluster});
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_THAT(result->jct_s, ElementsAre(1000, 1000)) << policy;
    EXPECT_NEAR(result->cost, 3 * 1000 / 3600.0, 1e-9);
  }
}

}  // namespace
}  // namespace tide::sim

// Policies of elastic jobs: worked examples, promises kept, searches against exhaustive ones.
#include <cmath>
#include <numeric>

#include "cpp/sim/traces_for_tests.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/summary.h"

namespace tide::sim {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;

// Throughput by Amdahl's law up to `most` GPUs.
sched::JobProfile Curve(double serial_share, int most) {
  sched::JobProfile profile;
  for (int k = 1; k <= most; ++k) profile.speed.push_back(k / (1 + serial_share * (k - 1)));
  return profile;
}

sched::JobView Elastic(double submit_s, int gpus, double duration_s, int most, int profile = 0) {
  sched::JobView job = JobOf(submit_s, gpus, duration_s);
  job.gpus_min = 1;
  job.gpus_max = most;
  job.profile = profile;
  return job;
}

absl::StatusOr<ReplayResult> RunPolicy(const Trace& trace, const std::string& policy, int gpus,
                                       const sched::ClusterPolicyOptions& options = {}) {
  return Replay(trace, *sched::MakeClusterPolicy(policy, options),
                {.cluster = {.gpus_per_node = gpus}});
}

class ElasticLaws : public ::testing::TestWithParam<const char*> {};

TEST_P(ElasticLaws, AJobAloneGrowsAsFarAsItCanUse) {
  // 100 s on its gang of 2 are 200 GPU-seconds of perfect speed-up; 8 GPUs take 25 s.
  Trace trace = TraceOf({Elastic(0, 2, 100, 8)});
  trace.profiles.of = {Curve(0, 8)};
  const auto result = RunPolicy(trace, GetParam(), 16);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->jct_s, ElementsAre(DoubleNear(25, 1e-9)));
}

TEST_P(ElasticLaws, ANewcomerGetsGpusFromAJobThatHasMoreThanItNeeds) {
  Trace trace = TraceOf({Elastic(0, 4, 4000, 8), Elastic(600, 4, 1000, 8)});
  trace.profiles.of = {Curve(0.05, 8)};
  const auto result = RunPolicy(trace, GetParam(), 8);
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(result->jct_s.size(), 2u);
  EXPECT_GE(result->resizes, 1);
  EXPECT_EQ(result->preemptions, 0);
}

INSTANTIATE_TEST_SUITE_P(All, ElasticLaws,
                         ::testing::Values("optimus", "afs", "elasticflow", "pollux", "sia-like",
                                           "lyra", "easyscale", "singularity"),
                         [](const auto& info) { return TestName(info.param); });

TEST(ElasticPoliciesTest, ResizingCostsTheTimeThatTheClusterSays) {
  Trace trace = TraceOf({Elastic(0, 1, 100, 2), JobOf(0, 1, 50)});
  trace.profiles.of = {Curve(0, 2)};
  // Grows at 50, stands still for 10 s, does the other 50 s in 25.
  const auto result = Replay(trace, *sched::MakeClusterPolicy("easyscale"),
                             {.cluster = {.gpus_per_node = 2, .resize_cost_s = 10}});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->jct_s, ElementsAre(85, 50));
  EXPECT_EQ(result->gpu_seconds_lost, 20);
}

TEST(ElasticPoliciesTest, OptimusGivesGpusToTheJobThatTheySaveMost) {
  // Ten times the work, the same curve: the long one gets what is beyond the least.
  Trace trace = TraceOf({Elastic(0, 1, 1000, 4), Elastic(0, 1, 100, 4)});
  trace.profiles.of = {Curve(0, 4)};
  const auto result = RunPolicy(trace, "optimus", 5);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->jct_s, ElementsAre(DoubleNear(250, 1e-9), DoubleNear(100, 1e-9)));
}

TEST(ElasticPoliciesTest, AfsWidensTheShortestWhenJobsScaleAndBothWhenTheyDoNot) {
  for (const double serial_share : {0.0, 0.5}) {
    Trace trace = TraceOf({Elastic(0, 1, 100, 4), Elastic(0, 1, 400, 4)});
    trace.profiles.of = {Curve(serial_share, 4)};
    const auto result = RunPolicy(trace, "afs", 4);
    ASSERT_TRUE(result.ok()) << result.status();
    // Perfect speed-up: 3 GPUs for the short one and the least for the long one, then all 4. Poor:
    // the third GPU is worth less to the short one than the second to the long one.
    if (serial_share == 0) {
      EXPECT_THAT(result->jct_s, ElementsAre(DoubleNear(100 / 3.0, 1e-9), DoubleNear(125, 1e-9)));
    } else {
      EXPECT_NEAR(result->jct_s[0], 75, 1e-9);
    }
  }
}

TEST(ElasticPoliciesTest, ElasticFlowKeepsEveryPromiseAndMeetsMoreThanRigidAdmission) {
  int met = 0, met_rigid = 0;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    Trace trace;
    trace.profiles.of = {Curve(0.02, 8), Curve(0.1, 8), Curve(0.3, 8)};
    double submit_s = 0;
    for (int i = 0; i < 40; ++i) {
      submit_s += static_cast<double>(random.Below(200));
      sched::JobView job =
          Elastic(submit_s, 1 << random.Below(4), static_cast<double>(120 + random.Below(900)), 8,
                  static_cast<int>(random.Below(3)));
      if (random.Below(5) != 0) {
        job.deadline_s = submit_s + 120 + job.duration_s * (0.7 + random.Unit());
      }
      trace.jobs.push_back(job);
      trace.job_ids.push_back(std::to_string(i));
    }
    const auto result = RunPolicy(trace, "elasticflow", 8);
    const auto rigid = RunPolicy(trace, "edf-admit", 8);
    ASSERT_TRUE(result.ok() && rigid.ok()) << result.status() << rigid.status();
    for (const RefusedJob& refused : result->refused) {
      ASSERT_EQ(refused.reason, "its deadline cannot be met beside those already promised");
    }
    ASSERT_EQ(result->deadlines_met + static_cast<int>(result->refused.size()), result->deadlines);
    met += result->deadlines_met;
    met_rigid += rigid->deadlines_met;
  }
  EXPECT_GT(met, met_rigid);
}

TEST(ElasticPoliciesTest, PolluxFindsTheBestMeanOfSmallProblems) {
  // Three jobs, 6 GPUs: all sizes are tried by hand; the search must not be worse.
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    Trace trace;
    for (int i = 0; i < 3; ++i) {
      trace.profiles.of.push_back(Curve(0.6 * random.Unit(), 4));
      trace.jobs.push_back(Elastic(0, 1, 1e6, 4, i));
      trace.job_ids.push_back(std::to_string(i));
    }
    auto policy = *sched::MakeClusterPolicy("pollux", {.seed = seed});
    std::vector<sched::JobEvent> events;
    for (int i = 0; i < 3; ++i) {
      trace.jobs[i].state = sched::JobState::kPending;
      events.push_back({.job = sched::JobIndex(i)});
    }
    const auto decision = policy->Decide({.cluster = {.gpus = 6},
                                          .jobs = trace.jobs,
                                          .events = events,
                                          .profiles = &trace.profiles});
    const auto worth = [&](std::array<int, 3> gpus) {
      double inverse = 0;
      for (int i = 0; i < 3; ++i) {
        const auto speed = [&](int k) { return sched::SpeedOf(trace.jobs[i], &trace.profiles, k); };
        inverse += gpus[i] > 0 ? speed(2) / speed(gpus[i]) : 20;  // the fair share is 2
      }
      return 3 / inverse;
    };
    std::array<int, 3> got{};
    for (const sched::JobAction& action : decision.actions) got[action.job.value()] = action.gpus;
    double best = 0;
    for (const int a : {0, 1, 2, 4}) {
      for (const int b : {0, 1, 2, 4}) {
        for (const int c : {0, 1, 2, 4}) {
          if (a + b + c <= 6) best = std::max(best, worth({a, b, c}));
        }
      }
    }
    EXPECT_NEAR(worth(got), best, 1e-9);
  }
}

TEST(ElasticPoliciesTest, PolluxGivesTheSameForTheSameSeed) {
  Random random(7);
  const Trace trace = RichTrace(random, 8);
  const auto once = RunPolicy(trace, "pollux", 8, {.seed = 3});
  const auto again = RunPolicy(trace, "pollux", 8, {.seed = 3});
  ASSERT_TRUE(once.ok() && again.ok());
  EXPECT_EQ(once->jct_s, again->jct_s);
}

TEST(ElasticPoliciesTest, SiaFindsTheBestTypesAndSizesOfSmallProblems) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    Trace trace;
    std::vector<sched::JobEvent> events;
    for (int i = 0; i < 3; ++i) {
      trace.profiles.of.push_back(Curve(0.6 * random.Unit(), 4));
      trace.profiles.of.back().type_speed = {1, 0.2 + 0.8 * random.Unit()};
      trace.jobs.push_back(Elastic(0, 1, 1e6, 4, i));
      trace.jobs[i].state = sched::JobState::kPending;
      events.push_back({.job = sched::JobIndex(i)});
    }
    const std::vector<int> gpus = {3, 4};
    const auto decision = (*sched::MakeClusterPolicy("sia-like"))
                              ->Decide({.cluster = {.gpus = 7, .gpus_by_type = gpus},
                                        .jobs = trace.jobs,
                                        .events = events,
                                        .profiles = &trace.profiles});
    using Choice = std::pair<int, int>;  // type, GPUs
    const auto value = [&](int i, Choice choice) {
      if (choice.second == 0) return 0.0;
      const sched::JobProfile& profile = trace.profiles.of[i];
      const double goodput = profile.speed[choice.second - 1] * profile.type_speed[choice.first] /
                             (profile.speed[0] * profile.type_speed[1]);
      return 1.1 - std::pow(goodput, -0.5);
    };
    std::vector<Choice> all = {{0, 0}};
    for (const int type : {0, 1}) {
      for (const int size : {1, 2, 4}) all.emplace_back(type, size);
    }
    const auto worth = [&](const std::array<Choice, 3>& choices) {
      std::vector<int> left = gpus;
      double sum = 0;
      for (int i = 0; i < 3; ++i) {
        left[choices[i].first] -= choices[i].second;
        sum += value(i, choices[i]);
      }
      return left[0] < 0 || left[1] < 0 ? -1 : sum;
    };
    double best = 0;
    for (const Choice& a : all) {
      for (const Choice& b : all) {
        for (const Choice& c : all) best = std::max(best, worth({a, b, c}));
      }
    }
    std::array<Choice, 3> got{};
    for (const sched::JobAction& action : decision.actions) {
      got[action.job.value()] = {action.type, action.gpus};
    }
    EXPECT_NEAR(worth(got), best, 1e-9);
  }
}

TEST(ElasticPoliciesTest, SiaMovesAJobToAFasterTypeWhenOneComesFree) {
  Trace trace = TraceOf({JobOf(0, 2, 100), JobOf(1, 2, 400)});
  trace.profiles.of.emplace_back().type_speed = {1, 0.25};
  for (sched::JobView& job : trace.jobs) job.profile = 0;
  ClusterSpec cluster;
  cluster.types = {{.name = "fast", .gpus_per_node = 2}, {.name = "slow", .gpus_per_node = 2}};
  const auto result = Replay(trace, *sched::MakeClusterPolicy("sia-like"), {.cluster = cluster});
  ASSERT_TRUE(result.ok()) << result.status();
  // The first has the fast ones until 100; at 120, the next round, the second has done 29.75 s.
  EXPECT_THAT(result->jct_s, ElementsAre(100, 119 + 400 - 29.75));
  EXPECT_EQ(result->preemptions, 1);
}

TEST(ElasticPoliciesTest, SiaRunsAGangLargerThanEveryTypeAloneWhenItIsTheFirst) {
  const Trace trace = TraceOf({JobOf(0, 1, 90), JobOf(1, 4, 100), JobOf(2, 1, 50)});
  ClusterSpec cluster;
  cluster.types = {{.name = "fast", .gpus_per_node = 2}, {.name = "slow", .gpus_per_node = 2}};
  const auto result = Replay(trace, *sched::MakeClusterPolicy("sia-like"), {.cluster = cluster});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->jct_s, ElementsAre(90, 189, 50));
}

// 64 examples of 1 ms on one GPU: 10 + 64 ms.
sched::BatchModel Batch() {
  return {.own = 64,
          .most = 4096,
          .noise = 1000,
          .step_s = 0.01,
          .example_s = 0.001,
          .sync_s = 0.02,
          .sync_gpu_s = 0.001};
}

TEST(ElasticPoliciesTest, PolluxAndSiaGiveEachSizeItsBestBatchAndOthersKeepTheJobsOwn) {
  Trace trace = TraceOf({Elastic(0, 1, 1000, 4)});
  trace.profiles.of.emplace_back().batch = Batch();
  const sched::BatchModel batch = Batch();
  const double own = batch.Throughput(1, 64);
  EXPECT_NEAR(own, 64 / 0.074, 1e-9);
  const double best = batch.BestBatch(4);
  EXPECT_NEAR(best, std::sqrt(0.032 * 1000 * 4 / 0.001), 1e-9);
  for (const char* policy : {"pollux", "sia-like"}) {
    const auto result = RunPolicy(trace, policy, 8);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_NEAR(result->jct_s[0], 1000 * own / batch.Goodput(4, best), 1e-6) << policy;
  }
  const auto optimus = RunPolicy(trace, "optimus", 8);
  ASSERT_TRUE(optimus.ok());
  EXPECT_NEAR(optimus->jct_s[0], 1000 * own / batch.Throughput(4, 64), 1e-6);
  const auto fifo = RunPolicy(trace, "fifo", 8);
  ASSERT_TRUE(fifo.ok());
  EXPECT_EQ(fifo->jct_s[0], 1000);
}

TEST(ElasticPoliciesTest, ARigidJobMayHaveAnotherBatchOnItsGang) {
  Trace trace = TraceOf({JobOf(0, 4, 1000), JobOf(0, 4, 1000)});
  trace.profiles.of.emplace_back().batch = Batch();
  trace.jobs[0].profile = 0;
  const auto result = RunPolicy(trace, "pollux", 8);
  ASSERT_TRUE(result.ok()) << result.status();
  const sched::BatchModel batch = Batch();
  EXPECT_NEAR(result->jct_s[0],
              1000 * batch.Throughput(4, 64) / batch.Goodput(4, batch.BestBatch(4)), 1e-6);
  EXPECT_NEAR(result->jct_s[0], 577.55, 0.01);  // 48 ms for 64 against 121 ms for 358, worth 0.78
  EXPECT_EQ(result->jct_s[1], 1000);
}

// Starts the first job with a batch that is not between its own and the most.
class WrongBatch final : public sched::ClusterPolicy {
 public:
  std::unique_ptr<ClusterPolicy> Clone() const override { return nullptr; }
  sched::ClusterDecision Decide(const sched::ClusterInput&) override {
    return {.actions = {{.job = sched::JobIndex(0), .reason = "wrong", .batch = 8192}}};
  }
};

TEST(ElasticPoliciesTest, ABatchThatAJobCannotHaveIsABrokenLaw) {
  Trace trace = TraceOf({Elastic(0, 1, 1000, 4)});
  trace.profiles.of.emplace_back().batch = Batch();
  const auto result =
      Replay(trace, std::make_unique<WrongBatch>(), {.cluster = {.gpus_per_node = 8}});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInternal);
}

TEST(ElasticPoliciesTest, LyraStartsTheShortestBaseFirstAndStopsNobodyForIt) {
  const Trace trace = TraceOf({JobOf(0, 2, 100), JobOf(1, 2, 50), JobOf(2, 2, 10)});
  const auto result = RunPolicy(trace, "lyra", 2);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->jct_s, ElementsAre(100, 159, 108));
  EXPECT_EQ(result->preemptions, 0);
}

TEST(ElasticPoliciesTest, LyraReturnsTheLentNodeThatStopsFewestJobsAndShrinksElasticOnes) {
  // Its own node is full of job 0; on the two lent ones run an elastic and a rigid job.
  Trace trace = TraceOf({JobOf(0, 4, 1000), Elastic(0, 4, 400, 8), JobOf(50, 2, 60)});
  trace.jobs[1].gpus_min = 2;
  trace.profiles.of = {Curve(0, 8)};
  ClusterSpec cluster{.nodes = 1, .gpus_per_node = 4};
  cluster.loans = {{.nodes = 2, .from_s = 0, .to_s = 200},
                   {.nodes = 1, .from_s = 200, .to_s = 900}};
  const auto lyra = Replay(trace, *sched::MakeClusterPolicy("lyra"), {.cluster = cluster});
  ASSERT_TRUE(lyra.ok()) << lyra.status();
  // 8 GPUs until 50, 4 until 110, 8 until 200 are 1360 of 1600 GPU-seconds; then 4 GPUs for 60 s.
  EXPECT_THAT(lyra->jct_s, ElementsAre(1000, 260, 60));
  EXPECT_EQ(lyra->evictions, 0);
  EXPECT_EQ(lyra->resizes, 3);
  EXPECT_EQ(lyra->gpu_seconds_lent, 4 * (2 * 200 + 700));
}

TEST(ElasticPoliciesTest, WhenALoanEndsAJobStopsWithoutLosingWorkAndGoesOnWithTheNext) {
  const Trace trace = TraceOf({JobOf(0, 4, 500), JobOf(0, 4, 100)});
  ClusterSpec cluster{.nodes = 1, .gpus_per_node = 4, .checkpoint_every_s = 1000};
  cluster.loans = {{.nodes = 1, .from_s = 0, .to_s = 60}, {.nodes = 1, .from_s = 80, .to_s = 600}};
  for (const char* policy : {"fjf", "lyra"}) {
    const auto result = Replay(trace, *sched::MakeClusterPolicy(policy), {.cluster = cluster});
    ASSERT_TRUE(result.ok()) << result.status();
    const auto [shorter, longer] = std::minmax(result->jct_s[0], result->jct_s[1]);
    EXPECT_GT(longer - shorter, 300);
    EXPECT_EQ(result->evictions, 1) << policy;
    EXPECT_EQ(result->gpu_seconds_lost, 0) << policy;
  }
}

TEST(ElasticPoliciesTest, AGangThatNeedsALoanWaitsForItAndIsRefusedAfterTheLast) {
  const Trace trace = TraceOf({JobOf(0, 8, 100), JobOf(0, 8, 600)});
  ClusterSpec cluster{.nodes = 1, .gpus_per_node = 4};
  cluster.loans = {{.nodes = 1, .from_s = 50, .to_s = 300}};
  const auto result = Replay(trace, *sched::MakeClusterPolicy("fjf"), {.cluster = cluster});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->jct_s, ElementsAre(150));
  ASSERT_EQ(result->refused.size(), 1u);
  EXPECT_EQ(result->refused[0].reason, "asks for 8 GPUs; after the last fault or loan 4 work");
}

TEST(ElasticPoliciesTest, LoansThatCannotBeAreRefused) {
  for (const Loan& loan : {Loan{.nodes = 0, .from_s = 0, .to_s = 1}, Loan{1, 5, 5}, Loan{1, -1, 5},
                           Loan{1, 0, sched::kNever}}) {
    EXPECT_FALSE(CheckCluster({.nodes = 2, .loans = {loan}}).ok());
  }
  ClusterSpec typed{.loans = {{.nodes = 1, .from_s = 0, .to_s = 1}}};
  typed.types = {{.name = "a"}, {.name = "b"}};
  EXPECT_FALSE(CheckCluster(typed).ok());
}

TEST(ElasticPoliciesTest, SingularityShrinksALowTierBeforeItStopsIt) {
  Trace trace = TraceOf({Elastic(0, 4, 100, 4), JobOf(10, 3, 20)});
  trace.profiles.of = {Curve(0, 4)};
  trace.jobs[0].tier = sched::JobTier::kOpportunistic;
  trace.jobs[1].tier = sched::JobTier::kGuaranteed;
  const auto result = RunPolicy(trace, "singularity", 4);
  ASSERT_TRUE(result.ok()) << result.status();
  // From 10 to 30 the first runs on one GPU: a quarter of the speed.
  EXPECT_THAT(result->jct_s, ElementsAre(115, 20));
  EXPECT_EQ(result->preemptions, 0);
}

TEST(ElasticPoliciesTest, EasyScaleProposesOnlySplitsThatAreFaster) {
  // Four logical workers: on 3 GPUs one has two, so 3 are no faster than 2.
  Trace trace = TraceOf({Elastic(0, 4, 100, 4), JobOf(0, 1, 400)});
  trace.profiles.of = {{.speed = {1, 2, 2, 4}}};
  const auto result = RunPolicy(trace, "easyscale", 4);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->jct_s, ElementsAre(200, 400));
  EXPECT_NEAR(result->gpu_seconds_used, 2 * 200 + 400, 1e-9);
}

}  // namespace
}  // namespace tide::sim

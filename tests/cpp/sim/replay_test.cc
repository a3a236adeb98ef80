// The event loop: what it refuses, what it counts, and policies that break laws.
#include "sim/replay.h"

#include <functional>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/summary.h"

namespace tide::sim {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Trace TraceOf(const std::vector<sched::JobView>& jobs) {
  Trace trace;
  trace.jobs = jobs;
  for (size_t i = 0; i < jobs.size(); ++i) trace.job_ids.push_back(std::to_string(i));
  return trace;
}

sched::JobView Job(double submit_s, int gpus, double duration_s) {
  sched::JobView job;
  job.submit_s = submit_s;
  job.gpus = gpus;
  job.duration_s = duration_s;
  return job;
}

absl::StatusOr<ReplayResult> RunPolicy(const std::vector<sched::JobView>& jobs, const char* policy,
                                       const ClusterSpec& cluster) {
  return Replay(TraceOf(jobs), *sched::MakeClusterPolicy(policy), {.cluster = cluster});
}

// Does what it is told at each decision.
class Scripted final : public sched::ClusterPolicy {
 public:
  explicit Scripted(std::function<sched::ClusterDecision(const sched::ClusterInput&)> decide)
      : decide_(std::move(decide)) {}
  std::unique_ptr<ClusterPolicy> Clone() const override {
    return std::make_unique<Scripted>(*this);
  }
  sched::ClusterDecision Decide(const sched::ClusterInput& input) override {
    return decide_(input);
  }

 private:
  std::function<sched::ClusterDecision(const sched::ClusterInput&)> decide_;
};

absl::StatusOr<ReplayResult> RunScripted(
    const std::vector<sched::JobView>& jobs,
    std::function<sched::ClusterDecision(const sched::ClusterInput&)> decide) {
  return Replay(TraceOf(jobs), std::make_unique<Scripted>(std::move(decide)),
                {.cluster = {.nodes = 1, .gpus_per_node = 4}});
}

TEST(ReplayTest, AGangLargerThanTheClusterIsRefusedAndHoldsUpNobody) {
  const auto result =
      RunPolicy({Job(0, 8, 10), Job(0, 4, 10), Job(1, 4, 10)}, "fifo", {.gpus_per_node = 4});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->jct_s, ElementsAre(10, 19));
  ASSERT_EQ(result->refused.size(), 1u);
  EXPECT_EQ(result->refused[0].job, sched::JobIndex(0));
  EXPECT_EQ(result->refused[0].reason, "asks for 8 GPUs at once; the cluster has 4");
}

TEST(ReplayTest, AJobOfNoDurationEndsWhenItStarts) {
  const auto result = RunPolicy({Job(0, 4, 5), Job(1, 4, 0)}, "fifo", {.gpus_per_node = 4});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->jct_s, ElementsAre(5, 4));
}

TEST(ReplayTest, AJobThatThePolicyForgetsIsReported) {
  const auto result =
      RunScripted({Job(0, 1, 5)}, [](const auto&) { return sched::ClusterDecision(); });
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->jct_s, ElementsAre());
  ASSERT_EQ(result->refused.size(), 1u);
  EXPECT_EQ(result->refused[0].reason, "the policy never started it");
}

TEST(ReplayTest, AJobThatThePolicyRefusesIsListedWithItsReason) {
  const auto result = RunScripted({Job(0, 1, 5), Job(0, 1, 5)}, [](const auto& input) {
    sched::ClusterDecision decision;
    for (const sched::JobEvent& event : input.events) {
      if (event.kind != sched::JobEventKind::kArrival) continue;
      const bool first = event.job == sched::JobIndex(0);
      decision.actions.push_back(
          {.job = event.job,
           .kind = first ? sched::JobActionKind::kRefuse : sched::JobActionKind::kStart,
           .reason = "no"});
    }
    return decision;
  });
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->jct_s, ElementsAre(5));
  ASSERT_EQ(result->refused.size(), 1u);
  EXPECT_EQ(result->refused[0].reason, "no");
}

TEST(ReplayTest, APolicyThatBreaksALawIsNamedWithJobAndTime) {
  const auto act = [](sched::JobActionKind kind, int times) {
    return [=](const sched::ClusterInput&) {
      sched::ClusterDecision decision;
      for (int i = 0; i < times; ++i) {
        decision.actions.push_back({.job = sched::JobIndex(0), .kind = kind, .reason = "why"});
      }
      return decision;
    };
  };
  const auto start_all = [](const sched::ClusterInput& input) {
    sched::ClusterDecision decision;
    for (const sched::JobEvent& event : input.events)
      decision.actions.push_back({.job = event.job});
    return decision;
  };
  const std::vector<sched::JobView> one = {Job(0, 1, 5)};
  EXPECT_THAT(RunScripted(one, act(sched::JobActionKind::kPreempt, 1)).status().message(),
              HasSubstr("preempts a job that waits: job 0 at 0.000 s, 4 GPUs free (why)"));
  EXPECT_THAT(RunScripted(one, act(sched::JobActionKind::kStart, 2)).status().message(),
              HasSubstr("starts a job that does not wait"));
  EXPECT_THAT(RunScripted({Job(0, 3, 5), Job(0, 3, 5)}, start_all).status().message(),
              HasSubstr("hands out more GPUs than there are: job 1"));
  EXPECT_THAT(RunScripted(one,
                          [](const sched::ClusterInput& input) {
                            return sched::ClusterDecision{.wake_s = input.now_s};
                          })
                  .status()
                  .message(),
              HasSubstr("without time going on at 0.000 s"));
}

TEST(ReplayTest, ARestartRepeatsItsCost) {
  // srtf: the long job runs 10 s, waits 5 s, repeats 3 s of its work.
  const auto result =
      RunPolicy({Job(0, 4, 100), Job(10, 4, 5)}, "srtf", {.gpus_per_node = 4, .restart_cost_s = 3});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->jct_s, ElementsAre(108, 5));
  EXPECT_EQ(result->preemptions, 1);
  EXPECT_EQ(result->gpu_seconds_lost, 12);
}

TEST(ReplayTest, AFailedNodeTakesItsJobsBackToTheirLastCheckpoint) {
  // Runs 25 s, loses the node for 50 s and the 5 s since its checkpoint at 20 s.
  const auto result = RunPolicy(
      {Job(0, 4, 100)}, "fifo",
      {.gpus_per_node = 4,
       .faults = {{.node = 0, .at_s = 25, .for_s = 30}, {.node = 0, .at_s = 40, .for_s = 35}},
       .checkpoint_every_s = 10});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->jct_s, ElementsAre(25 + 50 + 80));
  EXPECT_EQ(result->evictions, 1);
  EXPECT_EQ(result->gpu_seconds_lost, 20);
}

TEST(ReplayTest, TheLogHasALineForEachActionWithItsReason) {
  std::string log;
  const Trace trace = TraceOf({Job(0, 4, 100), Job(10, 4, 5)});
  ASSERT_TRUE(Replay(trace, *sched::MakeClusterPolicy("srtf"),
                     {.cluster = {.gpus_per_node = 4}, .decision_log = &log})
                  .ok());
  EXPECT_EQ(log,
            "0.000 start 0: of the jobs that fit it has the least time left\n"
            "10.000 preempt 0: jobs with less time left need its GPUs\n"
            "10.000 start 1: of the jobs that fit it has the least time left\n"
            "15.000 start 0: of the jobs that fit it has the least time left\n");
}

TEST(ReplayTest, AReplayIsInterruptedWhenItIsAsked) {
  int asked = 0;
  const Trace trace = DrawTrace(2000, 64, 0.9, 1);
  const auto result =
      Replay(trace, *sched::MakeClusterPolicy("fifo"),
             {.cluster = {.gpus_per_node = 64}, .interrupted = [&] { return ++asked == 3; }});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(asked, 3);
}

TEST(ReplayTest, AClusterThatCannotBeIsRefused) {
  EXPECT_FALSE(RunPolicy({Job(0, 1, 1)}, "fifo", {.nodes = 0}).ok());
  EXPECT_FALSE(RunPolicy({Job(0, 1, 1)}, "fifo", {.gpus_per_node = -1}).ok());
  EXPECT_FALSE(
      RunPolicy({Job(0, 1, 1)}, "fifo", {.faults = {{.node = 1, .at_s = 0, .for_s = 1}}}).ok());
  EXPECT_FALSE(RunPolicy({Job(0, 1, 1)}, "fifo", {.restart_cost_s = -1}).ok());
}

TEST(SummaryTest, QuantilesAreElementsOfTheSortedValues) {
  EXPECT_EQ(Quantile({4, 1, 3, 2}, 0.5), 3);
  EXPECT_EQ(Quantile({4, 1, 3, 2}, 0.99), 4);
  EXPECT_EQ(Quantile({}, 0.5), 0);
}

TEST(SummaryTest, UtilisationIsWhatWasUsedOfWhatThereWas) {
  const Trace trace = TraceOf({Job(0, 2, 10), Job(0, 1, 20)});
  const auto result =
      Replay(trace, *sched::MakeClusterPolicy("fifo"), {.cluster = {.gpus_per_node = 4}});
  ASSERT_TRUE(result.ok()) << result.status();
  const Summary summary = Summarise(trace, *result, 4);
  EXPECT_DOUBLE_EQ(summary.utilisation, 0.5);
  EXPECT_DOUBLE_EQ(summary.avg_jct_s, 15);
}

}  // namespace
}  // namespace tide::sim

// Laws of every cluster policy, on random traces full of ties, and equality with plain models.
#include "sched/cluster_policy.h"

#include <algorithm>
#include <functional>

#include "absl/strings/match.h"
#include "base/random.h"
#include "cpp/sim/naive_policies.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/replay.h"
#include "sim/summary.h"

namespace tide::sim {
namespace {

using sched::ClusterPolicy;
using sched::JobEventKind;
using sched::JobState;
using sched::MakeClusterPolicy;

constexpr int kGpus = 8;

// Few distinct numbers, so that events coincide and keys tie.
Trace SmallTrace(Random& random, int largest_gang = kGpus) {
  Trace trace;
  double submit_s = 0;
  const int jobs = 2 + static_cast<int>(random.Below(40));
  for (int i = 0; i < jobs; ++i) {
    sched::JobView job;
    if (random.Below(2) == 0) submit_s += static_cast<double>(random.Below(30));
    job.submit_s = submit_s;
    job.gpus = std::min(1 << random.Below(5), largest_gang);
    job.duration_s = static_cast<double>((1 + random.Below(12)) * (random.Below(4) == 0 ? 40 : 5));
    job.user = static_cast<int>(random.Below(3));
    job.group = job.user * 2 + static_cast<int>(random.Below(2));
    job.tier = static_cast<sched::JobTier>(random.Below(3));
    if (random.Below(2) == 0) {
      job.deadline_s = job.submit_s + job.duration_s * static_cast<double>(1 + random.Below(4));
    }
    trace.jobs.push_back(job);
    trace.job_ids.push_back(std::to_string(i));
  }
  return trace;
}

sched::ClusterPolicyOptions SmallOptions() { return {.queue_limits_s = {20, 90}}; }

std::unique_ptr<ClusterPolicy> Make(const std::string& name,
                                    const sched::ClusterPolicyOptions& options = SmallOptions()) {
  return *MakeClusterPolicy(name, options);
}

// Carries on with a copy that was told of completions in the opposite order and must have decided
// the same; hands the state after each decision to `look`.
class Watched final : public ClusterPolicy {
 public:
  Watched(std::unique_ptr<ClusterPolicy> inner,
          std::function<void(const sched::ClusterInput&, const std::vector<JobState>& after)> look)
      : inner_(std::move(inner)), look_(std::move(look)) {}
  std::unique_ptr<ClusterPolicy> Clone() const override { return nullptr; }
  sched::ClusterDecision Decide(const sched::ClusterInput& input) override {
    const std::unique_ptr<ClusterPolicy> copy = inner_->Clone();
    sched::ClusterDecision decision = inner_->Decide(input);
    std::vector<sched::JobEvent> events(input.events.begin(), input.events.end());
    std::reverse(events.begin(), std::find_if(events.begin(), events.end(), [](const auto& event) {
                   return event.kind != JobEventKind::kCompletion;
                 }));
    const sched::ClusterDecision again = copy->Decide(
        {.cluster = input.cluster, .jobs = input.jobs, .events = events, .now_s = input.now_s});
    EXPECT_EQ(again.actions.size(), decision.actions.size());
    EXPECT_EQ(again.wake_s, decision.wake_s);
    inner_ = copy->Clone();  // the copy, having decided, carries on
    std::vector<JobState> after;
    for (const sched::JobView& job : input.jobs) after.push_back(job.state);
    for (const sched::JobAction& action : decision.actions) {
      EXPECT_STRNE(action.reason, "");
      constexpr JobState kStates[] = {JobState::kRunning, JobState::kPending, JobState::kRefused};
      after[action.job.value()] = kStates[static_cast<int>(action.kind)];
    }
    look_(input, after);
    return decision;
  }

 private:
  std::unique_ptr<ClusterPolicy> inner_;
  std::function<void(const sched::ClusterInput&, const std::vector<JobState>&)> look_;
};

std::vector<std::string> PolicyNames() {
  std::vector<std::string> names;
  for (const sched::ClusterPolicyInfo& info : sched::ClusterPolicies()) names.push_back(info.name);
  return names;
}

class ClusterPolicyLaws : public ::testing::TestWithParam<std::string> {
 protected:
  // The others stop at the first job in their order that does not fit.
  bool PassesOverMisfits() const { return GetParam() != "fifo" && GetParam() != "qssf"; }
};

TEST_P(ClusterPolicyLaws, EveryJobEndsOrIsRefusedWithAReason) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const Trace trace = SmallTrace(random, 16);
    const auto result =
        Replay(trace, Make(GetParam()), {.cluster = {.nodes = 1, .gpus_per_node = kGpus}});
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(result->jct_s.size() + result->refused.size(), trace.jobs.size());
    for (const RefusedJob& refused : result->refused) {
      EXPECT_THAT(refused.reason, ::testing::Not(::testing::HasSubstr("never started")));
      if (trace.jobs[refused.job.value()].gpus > kGpus) {
        EXPECT_EQ(refused.reason, "asks for 16 GPUs at once; the cluster has 8");
      }
    }
  }
}

TEST_P(ClusterPolicyLaws, EveryJobEndsThoughNodesFail) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const Trace trace = SmallTrace(random);
    ReplayOptions options{.cluster = {.nodes = 4, .gpus_per_node = 2, .checkpoint_every_s = 7}};
    for (int i = 0; i < 6; ++i) {
      options.cluster.faults.push_back({.node = static_cast<int>(random.Below(4)),
                                        .at_s = static_cast<double>(random.Below(300)),
                                        .for_s = static_cast<double>(1 + random.Below(100))});
    }
    const auto result = Replay(trace, Make(GetParam()), options);
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(result->jct_s.size() + result->refused.size(), trace.jobs.size());
    for (const RefusedJob& refused : result->refused) {
      EXPECT_THAT(refused.reason, ::testing::Not(::testing::HasSubstr("never started")));
    }
  }
}

TEST_P(ClusterPolicyLaws, NoGpuIsIdleWhileAWaitingJobFitsAndACopyDecidesTheSame) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const Trace trace = SmallTrace(random);
    const auto look = [&](const sched::ClusterInput& input, const std::vector<JobState>& after) {
      int free = input.cluster.gpus;
      for (size_t i = 0; i < after.size(); ++i) {
        free -= after[i] == JobState::kRunning ? input.jobs[i].gpus : 0;
      }
      ASSERT_GE(free, 0);
      int waiting = 0, fitting = 0;
      for (size_t i = 0; i < after.size(); ++i) {
        if (after[i] != JobState::kPending) continue;
        ++waiting;
        fitting += input.jobs[i].gpus <= free ? 1 : 0;
      }
      ASSERT_LE(fitting, PassesOverMisfits() ? 0 : std::max(0, waiting - 1));
    };
    const auto result = Replay(trace, std::make_unique<Watched>(Make(GetParam()), look),
                               {.cluster = {.nodes = 1, .gpus_per_node = kGpus}});
    ASSERT_TRUE(result.ok()) << result.status();
  }
}

TEST_P(ClusterPolicyLaws, TheSameTraceGivesTheSameLogOfDecisions) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const Trace trace = SmallTrace(random);
    std::string logs[2];
    for (std::string& log : logs) {
      const ReplayOptions options{.cluster = {.nodes = 1, .gpus_per_node = kGpus},
                                  .decision_log = &log};
      ASSERT_TRUE(Replay(trace, Make(GetParam()), options).ok());
    }
    ASSERT_TRUE(logs[0] == logs[1]);
    ASSERT_TRUE(absl::StrContains(logs[0], " start "));
  }
}

TEST_P(ClusterPolicyLaws, TwiceTheTimesGiveTwiceTheCompletionTimes) {
  if (GetParam() == "dlas-gpu") GTEST_SKIP() << "its clock floors a quotient of mixed units";
  if (absl::StartsWith(GetParam(), "gavel-")) {
    GTEST_SKIP() << "which of equally good shares a linear program gives depends on the scale";
  }
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const Trace trace = SmallTrace(random);
    Trace twice = trace;
    for (sched::JobView& job : twice.jobs) {
      job.submit_s *= 2;
      job.duration_s *= 2;
      job.deadline_s *= 2;
    }
    const ReplayOptions options{.cluster = {.nodes = 1, .gpus_per_node = kGpus}};
    // Limits that every gang reaches in whole seconds: the published clocks round to those.
    sched::ClusterPolicyOptions policy{
        .queue_limits_s = {64, 256}, .round_s = 10, .restart_cost_s = 8};
    const auto once = Replay(trace, Make(GetParam(), policy), options);
    policy = {.queue_limits_s = {128, 512}, .round_s = 20, .restart_cost_s = 16};
    auto result = Replay(twice, Make(GetParam(), policy), options);
    ASSERT_TRUE(once.ok() && result.ok());
    for (double& jct_s : result->jct_s) jct_s /= 2;
    ASSERT_EQ(once->jct_s, result->jct_s);
  }
}

INSTANTIATE_TEST_SUITE_P(All, ClusterPolicyLaws, ::testing::ValuesIn(PolicyNames()),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

struct ModelCase {
  const char* name;
  std::function<std::unique_ptr<ClusterPolicy>()> model;
};

TEST(ClusterPolicyTest, IndexedPoliciesDecideAsTheirPlainModelsWhateverTies) {
  const std::vector<double> limits = SmallOptions().queue_limits_s;
  const ModelCase cases[] = {
      {"srtf", [] { return std::make_unique<NaiveShortest>(false); }},
      {"srsf", [] { return std::make_unique<NaiveShortest>(true); }},
      {"dlas", [&] { return std::make_unique<NaiveAttained>(false, false, limits); }},
      {"dlas-gpu", [&] { return std::make_unique<NaiveAttained>(true, true, limits); }},
      {"dlas-gpu-fixed", [&] { return std::make_unique<NaiveAttained>(true, false, limits); }}};
  for (const ModelCase& model : cases) {
    for (uint64_t seed = 1; seed <= 400; ++seed) {
      SCOPED_TRACE(testing::Message() << model.name << " seed " << seed);
      Random random(seed);
      const Trace trace = SmallTrace(random);
      const ReplayOptions options{.cluster = {.nodes = 1, .gpus_per_node = kGpus}};
      const auto plain = Replay(trace, model.model(), options);
      const auto indexed = Replay(trace, Make(model.name), options);
      ASSERT_TRUE(plain.ok() && indexed.ok()) << plain.status() << indexed.status();
      ASSERT_EQ(plain->jct_s, indexed->jct_s);
      ASSERT_EQ(plain->preemptions, indexed->preemptions);
      ASSERT_EQ(plain->events, indexed->events);
    }
  }
}

TEST(ClusterPolicyTest, AKnobAgainstStarvationShortensTheLongestWait) {
  // One long job against a stream of short ones that never leave it a GPU.
  Trace trace;
  for (int i = 0; i < 400; ++i) {
    sched::JobView job;
    job.submit_s = i == 0 ? 0 : 10 * (i - 1);
    job.gpus = i == 0 ? kGpus : 1 + kGpus / 2;
    job.duration_s = i == 0 ? 20 : 10;
    trace.jobs.push_back(job);
    trace.job_ids.push_back(std::to_string(i));
  }
  const ReplayOptions options{.cluster = {.nodes = 1, .gpus_per_node = kGpus}};
  sched::ClusterPolicyOptions knob{.queue_limits_s = {60, 1000}};
  const auto off = Replay(trace, Make("dlas-gpu-fixed", knob), options);
  knob.starvation_knob = 2;
  const auto on = Replay(trace, Make("dlas-gpu-fixed", knob), options);
  ASSERT_TRUE(off.ok() && on.ok()) << on.status();
  EXPECT_GT(off->jct_s[0], 3900);
  EXPECT_LT(on->jct_s[0], 200);
}

TEST(ClusterPolicyTest, AnUnknownNameIsAnsweredWithTheKnownOnes) {
  const auto policy = MakeClusterPolicy("lottery");
  EXPECT_EQ(policy.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(policy.status().message(),
              ::testing::HasSubstr("called \"lottery\"; there are fifo, fjf, srtf"));
}

TEST(ClusterPolicyTest, LimitsThatDoNotAscendAreRefused) {
  EXPECT_FALSE(MakeClusterPolicy("dlas", {.queue_limits_s = {100, 100}}).ok());
  EXPECT_FALSE(MakeClusterPolicy("dlas", {.queue_limits_s = {-1}}).ok());
  EXPECT_FALSE(MakeClusterPolicy("dlas", {.starvation_knob = -1}).ok());
}

TEST(ClusterPolicyTest, ShortestIsAnotherNameOfSrtfAndShortestGpuOfSrsf) {
  EXPECT_TRUE(MakeClusterPolicy("shortest").ok());
  EXPECT_TRUE(MakeClusterPolicy("shortest-gpu").ok());
}

}  // namespace
}  // namespace tide::sim

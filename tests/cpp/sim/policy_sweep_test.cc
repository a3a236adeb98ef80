// Every policy on every kind of trace: each job ends or is refused with a reason.
#include <filesystem>

#include "cpp/sim/traces_for_tests.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tide::sim {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

void ExpectNobodyLost(const Trace& trace, const absl::StatusOr<ReplayResult>& result) {
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(result->jct_s.size() + result->refused.size(), trace.jobs.size());
  for (const RefusedJob& refused : result->refused) {
    ASSERT_THAT(refused.reason, Not(HasSubstr("never started")));
    ASSERT_NE(refused.reason, "");
  }
}

class PolicySweep : public ::testing::TestWithParam<std::string> {};

TEST_P(PolicySweep, NobodyIsLostAmongElasticSharingAndRigidJobs) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const Trace trace = RichTrace(random, 8);
    for (const bool nodes : {false, true}) {
      ClusterSpec cluster{.gpus_per_node = 8};
      if (nodes) {
        cluster = {.nodes = 4,
                   .gpus_per_node = 2,
                   .restart_cost_s = 3,
                   .checkpoint_every_s = 20,
                   .resize_cost_s = 2,
                   .spread_speed = 0.8,
                   .nodes_per_switch = 2,
                   .switch_speed = 0.5};
        for (int i = 0; i < 6; ++i) {
          cluster.faults.push_back({.node = static_cast<int>(random.Below(4)),
                                    .at_s = static_cast<double>(random.Below(2000)),
                                    .for_s = static_cast<double>(1 + random.Below(300)),
                                    .kind = static_cast<FaultKind>(random.Below(3))});
        }
      }
      ExpectNobodyLost(trace,
                       Replay(trace, *sched::MakeClusterPolicy(GetParam()), {.cluster = cluster}));
    }
  }
}

TEST_P(PolicySweep, NobodyIsLostWhenLentNodesComeAndGo) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const Trace trace = RichTrace(random, 8);
    ClusterSpec cluster{.nodes = 4, .gpus_per_node = 2, .restart_cost_s = 3, .resize_cost_s = 2};
    for (int i = 0; i < 8; ++i) {
      const auto from_s = static_cast<double>(random.Below(2000));
      cluster.loans.push_back({.nodes = 1 + static_cast<int>(random.Below(3)),
                               .from_s = from_s,
                               .to_s = from_s + 1 + static_cast<double>(random.Below(600))});
    }
    cluster.faults.push_back({.node = 1, .at_s = 300, .for_s = 400});
    ExpectNobodyLost(trace,
                     Replay(trace, *sched::MakeClusterPolicy(GetParam()), {.cluster = cluster}));
  }
}

TEST_P(PolicySweep, NobodyIsLostOnSeveralTypesOfGpu) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const Trace trace = RichTrace(random, 8);
    ClusterSpec cluster;
    cluster.types = {{.name = "fast", .nodes = 1, .gpus_per_node = 8, .cost = 3},
                     {.name = "slow", .nodes = 2, .gpus_per_node = 4, .cost = 1},
                     {.name = "old", .nodes = 4, .gpus_per_node = 2, .cost = 0.4}};
    ExpectNobodyLost(trace,
                     Replay(trace, *sched::MakeClusterPolicy(GetParam()), {.cluster = cluster}));
  }
}

// The traces of the repository, and the larger ones where they are; of each the first jobs and in
// long rounds, so that months of a cluster end in seconds.
TEST_P(PolicySweep, NobodyIsLostOnThePublishedTraces) {
  constexpr size_t kJobs = 60;
  const fs::path root(TIDE_SOURCE_DIR);
  int replayed = 0;
  for (const fs::path& folder :
       {root / "tests/sim/traces", root / "../shared/traces", root / "../../shared/traces"}) {
    if (!fs::exists(folder)) continue;
    for (const auto& entry : fs::directory_iterator(folder)) {
      auto trace = ReadTrace(entry.path().string());
      if (!trace.ok()) continue;  // goldens.csv, traces of work without durations
      SCOPED_TRACE(trace->name);
      trace->jobs.resize(std::min(trace->jobs.size(), kJobs));
      trace->job_ids.resize(trace->jobs.size());
      ExpectNobodyLost(*trace,
                       Replay(*trace, *sched::MakeClusterPolicy(GetParam(), {.round_s = 7200}),
                              {.cluster = {.nodes = 2, .gpus_per_node = 8}}));
      ++replayed;
    }
  }
  EXPECT_GE(replayed, 3);
}

INSTANTIATE_TEST_SUITE_P(All, PolicySweep, ::testing::ValuesIn(PolicyNames()),
                         [](const auto& info) { return TestName(info.param); });

}  // namespace
}  // namespace tide::sim

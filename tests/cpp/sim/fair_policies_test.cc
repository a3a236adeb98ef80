// What single policies promise beyond the laws of all: fairness, tiers, deadlines, history.
#include <algorithm>
#include <cmath>
#include <functional>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/replay.h"

namespace tide::sim {
namespace {

using ::testing::ElementsAre;

sched::JobView Job(double submit_s, int gpus, double duration_s, int user = 0) {
  sched::JobView job;
  job.submit_s = submit_s;
  job.gpus = gpus;
  job.duration_s = duration_s;
  job.user = user;
  job.group = user;
  return job;
}

Trace TraceOf(const std::vector<sched::JobView>& jobs) {
  Trace trace;
  trace.jobs = jobs;
  for (size_t i = 0; i < jobs.size(); ++i) trace.job_ids.push_back(std::to_string(i));
  return trace;
}

std::vector<double> Jct(const std::vector<sched::JobView>& jobs, const char* policy, int gpus,
                        const sched::ClusterPolicyOptions& options = {}) {
  const auto result = Replay(TraceOf(jobs), *sched::MakeClusterPolicy(policy, options),
                             {.cluster = {.gpus_per_node = gpus}});
  EXPECT_TRUE(result.ok()) << result.status();
  return result->jct_s;
}

// Stops the world at a time and looks at the service that each job has had.
class Stopped final : public sched::ClusterPolicy {
 public:
  Stopped(std::unique_ptr<ClusterPolicy> inner, double at_s, std::vector<double>& service_s)
      : inner_(std::move(inner)), at_s_(at_s), service_s_(service_s) {}
  std::unique_ptr<ClusterPolicy> Clone() const override { return nullptr; }
  sched::ClusterDecision Decide(const sched::ClusterInput& input) override {
    if (input.now_s >= at_s_ && service_s_.empty()) {
      for (const sched::JobView& job : input.jobs) {
        service_s_.push_back(job.ExecutedAt(input.now_s));
      }
    }
    return inner_->Decide(input);
  }

 private:
  std::unique_ptr<ClusterPolicy> inner_;
  const double at_s_;
  std::vector<double>& service_s_;
};

std::vector<double> ServiceOf(double at_s, const Trace& trace, const char* policy,
                              const ClusterSpec& cluster) {
  std::vector<double> service_s;
  auto made = *sched::MakeClusterPolicy(policy, {.round_s = 10});
  const auto result = Replay(trace, std::make_unique<Stopped>(std::move(made), at_s, service_s),
                             {.cluster = cluster});
  EXPECT_TRUE(result.ok()) << result.status();
  return service_s;
}

std::vector<double> ServiceAt(double at_s, const std::vector<sched::JobView>& jobs,
                              const char* policy, int gpus) {
  return ServiceOf(at_s, TraceOf(jobs), policy, {.gpus_per_node = gpus});
}

TEST(FairPoliciesTest, GandivaFairGivesUsersTheSameHoweverManyJobsTheyHave) {
  std::vector<sched::JobView> jobs = {Job(0, 1, 5000, 1)};
  for (int i = 0; i < 9; ++i) jobs.push_back(Job(0, 1, 5000, 2));
  const std::vector<double> service_s = ServiceAt(2000, jobs, "gandiva-fair", 1);
  double others_s = 0;
  for (size_t i = 1; i < service_s.size(); ++i) others_s += service_s[i];
  EXPECT_NEAR(service_s[0], 1000, 20);
  EXPECT_NEAR(others_s, 1000, 20);
}

TEST(FairPoliciesTest, GandivaFairLetsALargeGangHaveItsTurn) {
  std::vector<sched::JobView> jobs = {Job(0, 4, 5000, 1)};
  for (int i = 0; i < 8; ++i) jobs.push_back(Job(0, 1, 5000, 2));
  const std::vector<double> service_s = ServiceAt(2000, jobs, "gandiva-fair", 4);
  EXPECT_NEAR(service_s[0], 1000, 40);
}

TEST(FairPoliciesTest, GandivaFairGivesANewcomerNoCreditForTheTimeBeforeIt) {
  const std::vector<sched::JobView> jobs = {Job(0, 1, 5000, 1), Job(1000, 1, 5000, 2)};
  const std::vector<double> service_s = ServiceAt(2000, jobs, "gandiva-fair", 1);
  EXPECT_NEAR(service_s[0], 1500, 20);
  EXPECT_NEAR(service_s[1], 500, 20);
}

TEST(FairPoliciesTest, GandivaFairTradesTypesOfGpuAndNobodyIsWorseOffThanWithItsOwnPartOfEach) {
  ClusterSpec cluster;
  cluster.types = {{.name = "fast", .gpus_per_node = 6}, {.name = "slow", .gpus_per_node = 12}};
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    Trace trace;
    std::vector<double> own_part, had(3, 0);
    for (int user = 0; user < 3; ++user) {
      const double slow = 0.2 + 0.7 * random.Unit();
      trace.profiles.of.emplace_back().type_speed = {1, slow};
      own_part.push_back(4000 * (6 / 3.0 + 12 / 3.0 * slow));
      for (int left = 20; left > 0;) {
        const int gpus = std::min(left, 1 + static_cast<int>(random.Below(3)));
        left -= gpus;
        trace.jobs.push_back(Job(0, gpus, 6000, user));
        trace.jobs.back().profile = user;
        trace.job_ids.push_back(std::to_string(trace.jobs.size()));
      }
    }
    const std::vector<double> service_s = ServiceOf(4000, trace, "gandiva-fair", cluster);
    for (size_t i = 0; i < service_s.size(); ++i) {
      had[trace.jobs[i].user] += service_s[i] * trace.jobs[i].gpus;
    }
    double gain = 0;
    for (int user = 0; user < 3; ++user) {
      EXPECT_GE(had[user], 0.97 * own_part[user]) << "user " << user;
      gain += had[user] / own_part[user] / 3;
    }
    EXPECT_GT(gain, 1.0);
  }
}

TEST(FairPoliciesTest, GandivaFairTellsUsersApartByWhatFastGpusDoForThem) {
  ClusterSpec cluster;
  cluster.types = {{.name = "fast", .gpus_per_node = 4}, {.name = "slow", .gpus_per_node = 8}};
  Trace trace;
  trace.profiles.of.resize(2);
  trace.profiles.of[0].type_speed = {1, 0.8};
  trace.profiles.of[1].type_speed = {1, 0.25};
  for (int i = 0; i < 24; ++i) {
    trace.jobs.push_back(Job(0, 1, 6000, i % 2));
    trace.jobs.back().profile = i % 2;
    trace.job_ids.push_back(std::to_string(i));
  }
  const std::vector<double> service_s = ServiceOf(4000, trace, "gandiva-fair", cluster);
  double had[2] = {0, 0};
  for (size_t i = 0; i < service_s.size(); ++i) had[i % 2] += service_s[i];
  // Two fast and four slow ones each; at 1.25 the second buys two for two and a half.
  EXPECT_NEAR(had[0], 4000 * 0.8 * 6.5, 400);
  EXPECT_NEAR(had[1], 4000 * (4 + 0.25 * 1.5), 400);
}

TEST(FairPoliciesTest, GandivaFairHasAGangLargerThanEveryTypeRunAloneForItsUsersPart) {
  ClusterSpec cluster;
  cluster.types = {{.name = "fast", .gpus_per_node = 4}, {.name = "slow", .gpus_per_node = 4}};
  std::vector<sched::JobView> jobs = {Job(0, 8, 6000, 1)};
  for (int i = 0; i < 8; ++i) jobs.push_back(Job(0, 1, 6000, 2));
  const std::vector<double> service_s = ServiceOf(4000, TraceOf(jobs), "gandiva-fair", cluster);
  EXPECT_NEAR(service_s[0], 2000, 40);
  EXPECT_NEAR(service_s[1], 2000, 40);
}

TEST(FairPoliciesTest, MaxMinGivesEveryJobTheSameGpuTime) {
  const std::vector<sched::JobView> jobs = {Job(0, 4, 9000), Job(0, 2, 9000), Job(0, 2, 9000),
                                            Job(0, 1, 9000), Job(0, 1, 9000)};
  const std::vector<double> service_s = ServiceAt(4000, jobs, "max-min", 4);
  // Of 4 GPUs each of five jobs gets 0.8; a gang of four holds them a fifth of the time.
  for (size_t i = 0; i < jobs.size(); ++i) {
    EXPECT_NEAR(service_s[i] * jobs[i].gpus, 0.8 * 4000, 400) << "job " << i;
  }
}

TEST(FairPoliciesTest, MakespanKeepsALongJobRunningFromTheStart) {
  std::vector<sched::JobView> jobs;
  for (int i = 0; i < 10; ++i) jobs.push_back(Job(0, 1, 100));
  jobs.push_back(Job(0, 1, 1000));
  const std::vector<double> jct_s = Jct(jobs, "makespan", 2, {.round_s = 10});
  // 1000 s is the least that is possible.
  EXPECT_LE(*std::max_element(jct_s.begin(), jct_s.end()), 1050);
  const std::vector<double> fjf_s = Jct(jobs, "fjf", 2);
  EXPECT_EQ(*std::max_element(fjf_s.begin(), fjf_s.end()), 1500);
}

TEST(FairPoliciesTest, ThemisAndFinishTimeHoldTheWorstRatioBelowThatOfFifo) {
  // A long job first; twelve short ones suffer under fifo.
  std::vector<sched::JobView> jobs = {Job(0, 1, 2000)};
  for (int i = 0; i < 12; ++i) jobs.push_back(Job(5, 1, 50));
  const auto worst = [&](const std::vector<double>& jct_s) {
    double rho = 0;
    for (size_t i = 0; i < jct_s.size(); ++i) rho = std::max(rho, jct_s[i] / jobs[i].duration_s);
    return rho;
  };
  const double fifo = worst(Jct(jobs, "fifo", 1));
  EXPECT_LT(worst(Jct(jobs, "themis", 1, {.round_s = 50})), 0.5 * fifo);
  EXPECT_LT(worst(Jct(jobs, "themis-lease", 1, {.round_s = 50})), 0.5 * fifo);
  EXPECT_LT(worst(Jct(jobs, "finish-time", 1, {.round_s = 50})), 0.5 * fifo);
}

std::vector<sched::JobView> Crowd(uint64_t seed) {
  Random random(seed);
  std::vector<sched::JobView> jobs;
  double submit_s = 0;
  for (int i = 0; i < 120; ++i) {
    submit_s += static_cast<double>(random.Below(40));
    jobs.push_back(
        Job(submit_s, 1 << random.Below(4), 20.0 + static_cast<double>(random.Below(400))));
  }
  return jobs;
}

std::string LogOf(const std::vector<sched::JobView>& jobs, const char* policy,
                  const sched::ClusterPolicyOptions& options) {
  std::string log;
  const auto result = Replay(TraceOf(jobs), *sched::MakeClusterPolicy(policy, options),
                             {.cluster = {.gpus_per_node = 8}, .decision_log = &log});
  EXPECT_TRUE(result.ok()) << result.status();
  return log;
}

TEST(FairPoliciesTest, ThemisBreaksNoLeaseAndDrawsTheSameForTheSameSeed) {
  const std::vector<sched::JobView> jobs = Crowd(5);
  const sched::ClusterPolicyOptions options{.seed = 3, .round_s = 200};
  const std::string log = LogOf(jobs, "themis", options);
  int preempted = 0, drawn = 0, won = 0;
  for (const absl::string_view line : absl::StrSplit(log, '\n', absl::SkipEmpty())) {
    drawn += absl::StrContains(line, "the draw gave them");
    won += absl::StrContains(line, "its bid won");
    if (!absl::StrContains(line, " preempt ")) continue;
    ++preempted;
    double at_s = 0;
    ASSERT_TRUE(absl::SimpleAtod(line.substr(0, line.find(' ')), &at_s));
    EXPECT_EQ(std::fmod(at_s, 200), 0) << line;
  }
  EXPECT_GT(preempted, 10);
  EXPECT_GT(drawn, 10);
  EXPECT_GT(won, 10);
  EXPECT_TRUE(log == LogOf(jobs, "themis", options));
  EXPECT_FALSE(log == LogOf(jobs, "themis", {.seed = 4, .round_s = 200}));
}

TEST(FairPoliciesTest, ThemisAuctionsAnElasticJobsGpusAtTheEndOfItsLease) {
  Trace trace = TraceOf({Job(0, 2, 4000), Job(50, 2, 100)});
  trace.jobs[0].gpus_min = 1;
  trace.jobs[0].gpus_max = 4;
  trace.jobs[0].profile = 0;
  trace.profiles.of.emplace_back().speed = {1, 2, 3, 4};
  const auto result = Replay(trace, *sched::MakeClusterPolicy("themis", {.round_s = 100}),
                             {.cluster = {.gpus_per_node = 4}});
  ASSERT_TRUE(result.ok()) << result.status();
  // All four GPUs are the first job's until 100; then the newcomer, which is worse off, wins two.
  EXPECT_THAT(result->jct_s, ElementsAre(2050, 150));
  EXPECT_EQ(result->resizes, 2);
  EXPECT_EQ(result->preemptions, 0);
}

TEST(FairPoliciesTest, EdfPreemptsForAnEarlierDeadlineAndForNothingElse) {
  std::vector<sched::JobView> jobs = {Job(0, 1, 100), Job(10, 1, 10), Job(20, 1, 10),
                                      Job(20, 1, 10)};
  jobs[0].deadline_s = 120;
  jobs[1].deadline_s = 25;
  jobs[2].deadline_s = 120;  // an equal does not preempt
  EXPECT_THAT(Jct(jobs, "edf", 1), ElementsAre(110, 10, 100, 110));
}

TEST(FairPoliciesTest, EdfAdmitKeepsEveryPromiseItMakesAndMeetsMoreThanEdf) {
  int met_by_edf = 0, met = 0;
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    std::vector<sched::JobView> jobs;
    double submit_s = 0;
    for (int i = 0; i < 40; ++i) {
      submit_s += static_cast<double>(random.Below(20));
      jobs.push_back(
          Job(submit_s, 1 << random.Below(4), 1.0 + static_cast<double>(random.Below(60))));
      jobs.back().deadline_s = random.Below(5) == 0
                                   ? sched::kNever
                                   : submit_s + jobs.back().duration_s * (1 + 2 * random.Unit());
    }
    const Trace trace = TraceOf(jobs);
    const ReplayOptions options{.cluster = {.gpus_per_node = 8}};
    const auto edf = Replay(trace, *sched::MakeClusterPolicy("edf"), options);
    const auto admit = Replay(trace, *sched::MakeClusterPolicy("edf-admit"), options);
    ASSERT_TRUE(edf.ok() && admit.ok()) << edf.status() << admit.status();
    for (const RefusedJob& refused : admit->refused) {
      ASSERT_EQ(refused.reason, "its deadline cannot be met beside those already promised");
      ASSERT_NE(jobs[refused.job.value()].deadline_s, sched::kNever);
    }
    ASSERT_EQ(admit->deadlines_met + static_cast<int>(admit->refused.size()), admit->deadlines);
    met_by_edf += edf->deadlines_met;
    met += admit->deadlines_met;
  }
  EXPECT_GT(met, met_by_edf);
}

TEST(FairPoliciesTest, EdfAdmitRefusesADeadlineThatIsTooEarlyEvenAlone) {
  std::vector<sched::JobView> jobs = {Job(0, 1, 100), Job(0, 1, 100)};
  jobs[0].deadline_s = 99;
  jobs[1].deadline_s = 100;
  EXPECT_THAT(Jct(jobs, "edf-admit", 1), ElementsAre(100));
}

TEST(FairPoliciesTest, AntmanTakesGpusFromOpportunisticJobsOnly) {
  std::vector<sched::JobView> jobs = {Job(0, 2, 100), Job(0, 2, 100), Job(10, 2, 50),
                                      Job(10, 2, 50)};
  jobs[1].tier = sched::JobTier::kOpportunistic;
  // Job 2 takes the place of job 1 at once; job 3 waits for it; job 1 goes on at 100.
  EXPECT_THAT(Jct(jobs, "antman", 4), ElementsAre(100, 190, 50, 100));
}

TEST(FairPoliciesTest, SingularityStopsTheLowestTierFirst) {
  std::vector<sched::JobView> jobs = {Job(0, 1, 100), Job(0, 1, 100), Job(10, 1, 50),
                                      Job(20, 1, 50)};
  jobs[0].tier = sched::JobTier::kOpportunistic;
  jobs[2].tier = sched::JobTier::kGuaranteed;
  jobs[3].tier = sched::JobTier::kGuaranteed;
  // 2 stops 0 at 10, 3 stops 1 at 20; at 60 the standard job 1 goes on, at 70 job 0.
  EXPECT_THAT(Jct(jobs, "singularity", 2), ElementsAre(160, 140, 50, 50));
}

TEST(FairPoliciesTest, HistoryOrdersJobsByWhatTheLikeTookAndNotByTheirOwnDurations) {
  // User 1's first job was short, user 2's long; the next ones are the other way round.
  const std::vector<sched::JobView> jobs = {Job(0, 1, 10, 1), Job(0, 1, 40, 2), Job(50, 2, 30, 3),
                                            Job(60, 2, 20, 2), Job(61, 2, 40, 1)};
  // At 80 job 2 ends; job 4 goes before job 3, whose user's jobs take 40 s.
  EXPECT_THAT(Jct(jobs, "pai", 2), ElementsAre(10, 40, 30, 80, 59));
  EXPECT_THAT(Jct(jobs, "qssf", 2), ElementsAre(10, 40, 30, 80, 59));
}

TEST(FairPoliciesTest, QssfHoldsUpSmallJobsBehindALargeOneAndPaiDoesNot) {
  const std::vector<sched::JobView> jobs = {Job(0, 1, 100, 1), Job(1, 2, 10, 2), Job(2, 1, 10, 3)};
  EXPECT_THAT(Jct(jobs, "qssf", 2), ElementsAre(100, 109, 118));
  EXPECT_THAT(Jct(jobs, "pai", 2), ElementsAre(100, 109, 10));
}

TEST(FairPoliciesTest, SrtfRestartPreemptsOnlyForMoreThanARestartCosts) {
  const std::vector<sched::JobView> jobs = {Job(0, 1, 100), Job(10, 1, 70)};
  EXPECT_THAT(Jct(jobs, "srtf-restart", 1, {.restart_cost_s = 30}), ElementsAre(100, 160));
  EXPECT_THAT(Jct(jobs, "srtf-restart", 1, {.restart_cost_s = 10}), ElementsAre(170, 70));
}

}  // namespace
}  // namespace tide::sim

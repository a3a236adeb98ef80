// The daemon is the simulator: a trace through its socket on a virtual clock gives the simulator's
// decision log byte for byte, also when it is killed on the way.
#include <sys/stat.h>

#include <fstream>
#include <set>
#include <sstream>

#include "base/random.h"
#include "coordinator/journal.h"
#include "cpp/coordinator/daemon_process.h"
#include "cpp/coordinator/tcp_peer.h"
#include "sim/end_times.h"
#include "sim/replay.h"

namespace tide::coordinator {
namespace {

constexpr char kSecret[] = "a secret of enough bytes";
constexpr char kNode[] = "all";

/// What is known of the jobs of a trace.
enum class Dress { kNone, kOwn, kElastic, kShared };
constexpr double kMemoryGib = 16;  // of a device, with kShared

struct Case {
  const char* trace;
  const char* policy;
  int gpus;
  size_t jobs;  // of the trace, from its begin; 0: all
  Dress dress = Dress::kNone;
};

/// Gives the jobs what a policy of that kind has to know.
void Put(Dress dress, sim::Trace& trace) {
  if (dress == Dress::kElastic) {
    ASSERT_TRUE(sim::AssumeElastic(trace, 0.1, 4).ok());
    for (sched::JobView& job : trace.jobs) job.gpus_min = job.gpus;  // a gang is the least there
  }
  if (dress != Dress::kShared) return;
  trace.profiles.of.clear();
  for (const auto& [busy, memory_gib] : {std::pair(0.4, 5.0), {0.7, 7.0}, {1.0, 3.0}}) {
    sched::JobProfile profile;
    profile.busy = busy;
    profile.memory_gib = memory_gib;
    profile.scratch_gib = 2;
    trace.profiles.of.push_back(profile);
  }
  for (size_t i = 0; i < trace.jobs.size(); ++i) {
    trace.jobs[i].group = trace.jobs[i].profile = static_cast<int>(i % 3);
    trace.jobs[i].tier = i % 2 == 0 ? sched::JobTier::kGuaranteed : sched::JobTier::kOpportunistic;
  }
}

/// Runs a trace through a coordinator as its only node and only client: submits when the trace
/// does, ends what has run long enough by the allocations that came.
class DaemonReplay : public DaemonTest, public ::testing::WithParamInterface<Case> {
 protected:
  DaemonReplay() {
    std::ofstream(folder() + "/secret") << kSecret;
    chmod((folder() + "/secret").c_str(), 0600);
    log_path_ = folder() + "/decisions";
  }

  void Begin() {
    ASSERT_EQ(
        Start({"--listen", "tcp://127.0.0.1:0", "--secret-file", folder() + "/secret", "--policy",
               GetParam().policy, "--virtual-clock", "--decision-log", log_path_}),
        0);
    std::string address;
    std::ifstream(folder() + "/cluster") >> address;
    peer_ = std::make_unique<TcpPeer>(address, kSecret);
    ASSERT_TRUE(peer_->Prove(kPatience).ok()) << peer_->status();
    peer_->Say(wire::Hello{.role = wire::Role::kNode});
    peer_->Say(wire::Join{.node = kNode,
                          .devices = GetParam().gpus,
                          .memory_gib = GetParam().dress == Dress::kShared ? kMemoryGib : 0});
    ASSERT_TRUE(peer_->Take<wire::Lease>(kPatience).has_value());
  }

  /// Sends and takes allocations until the answer comes; false when the daemon refused.
  wire::Answer AskCluster(wire::Message message) {
    peer_->Say(std::move(message), ++request_);
    while (true) {
      auto next = peer_->Next(kPatience);
      EXPECT_TRUE(next.ok()) << next.status();
      if (!next.ok()) return {.ok = false};
      if (const auto* allocation = std::get_if<wire::Allocation>(&*next)) Take(*allocation);
      if (auto* answer = std::get_if<wire::Answer>(&*next);
          answer && peer_->request_id() == request_)
        return std::move(*answer);
    }
  }

  void Take(const wire::Allocation& allocation) {
    const int index = by_id_.at(allocation.key);
    sched::JobView& job = jobs_[static_cast<size_t>(index)];
    const bool runs = allocation.state == wire::AllocationState::kRun;
    if (known() || job.state == sched::JobState::kDone ||
        runs == (job.state == sched::JobState::kRunning))
      return;
    if (runs) {
      ends_->Set(sched::JobIndex(index), now_s_ + (job.duration_s - job.executed_s));
    } else {
      job.executed_s = job.ExecutedAt(now_s_);
      ends_->Clear(sched::JobIndex(index));
    }
    job.since_s = now_s_;
    job.state = runs ? sched::JobState::kRunning : sched::JobState::kPending;
  }

  void SubmitDue() {
    for (; next_ < jobs_.size() && jobs_[next_].submit_s <= now_s_; ++next_) {
      const sched::JobView& job = jobs_[next_];
      const auto tier = static_cast<wire::Tier>(job.tier);
      wire::Submit submit = {
          .key = trace_.job_ids[next_],
          .user = std::to_string(job.user),
          .group = std::to_string(job.group),
          .devices = job.gpus,
          .estimate_s = job.duration_s,
          .deadline_s = job.deadline_s == sched::kNever ? 0 : job.deadline_s - now_s_,
          .tier = tier};
      if (known()) {
        submit.devices_max = job.gpus_max;
        submit.profile = ProfileToValue(trace_.profiles.of[static_cast<size_t>(job.profile)]);
      }
      ASSERT_TRUE(AskCluster(submit).ok);
      jobs_[next_].state = sched::JobState::kPending;
    }
  }

  void EndDue() {
    while (ends_->NextTime() <= now_s_) {
      const sched::JobIndex index = ends_->Pop();
      sched::JobView& job = jobs_[static_cast<size_t>(index.value())];
      job.state = sched::JobState::kDone;
      AskCluster(wire::Finish{.key = trace_.job_ids[static_cast<size_t>(index.value())]});
    }
  }

  /// Kills and starts the daemon again, and tells it again what it may not have heard.
  void Restart() {
    Kill();
    Begin();
    AskCluster(wire::Advance{.now_s = now_s_, .decide = false});
  }

  void Run(int restarts) {
    trace_ = *sim::ReadTrace(std::string(TIDE_SOURCE_DIR) + "/tests/sim/traces/" +
                             GetParam().trace + ".csv");
    if (GetParam().jobs > 0) {
      trace_.jobs.resize(std::min(trace_.jobs.size(), GetParam().jobs));
      trace_.job_ids.resize(trace_.jobs.size());
    }
    jobs_ = trace_.jobs;
    for (size_t i = 0; i < jobs_.size(); ++i) by_id_[trace_.job_ids[i]] = static_cast<int>(i);
    ends_ = std::make_unique<sim::EndTimes>(jobs_.size());
    Put(GetParam().dress, trace_);
    jobs_ = trace_.jobs;
    Simulate();
    Begin();
    Random random(11);
    const uint64_t every = restarts == 0 ? 0 : jobs_.size() * 2 / static_cast<uint64_t>(restarts);
    double wake_s = sched::kNever;
    for (uint64_t step = 0;; ++step) {
      const double submit_s = next_ < jobs_.size() ? jobs_[next_].submit_s : sched::kNever;
      now_s_ = std::min({submit_s, ends_->NextTime(), wake_s});
      if (now_s_ == sched::kNever || HasFatalFailure()) break;
      ASSERT_TRUE(AskCluster(wire::Advance{.now_s = now_s_, .decide = false}).ok);
      EndDue();
      const bool kill = every > 0 && random.Below(every) == 0;
      if (kill) Restart();  // between what happened and the decision on it
      SubmitDue();
      const wire::Answer decided = AskCluster(wire::Advance{.now_s = now_s_});
      ASSERT_TRUE(decided.ok);
      wake_s = decided.data.Float("wake_s", sched::kNever);
      if (kill) Restart();
    }
  }

  /// Whether the speed of a job depends on what the policy does with it: then its end is the
  /// simulator's, else it comes of the grants.
  static bool known() { return GetParam().dress != Dress::kNone; }

  void Simulate() {
    sim::ReplayOptions options;
    options.cluster = {.nodes = 1, .gpus_per_node = GetParam().gpus};
    if (GetParam().dress == Dress::kShared) options.cluster.gpu_memory_gib = kMemoryGib;
    options.decision_log = &expected_;
    options.keep_spans = known();
    auto result = sim::Replay(trace_, *sched::MakeClusterPolicy(GetParam().policy), options);
    ASSERT_TRUE(result.ok()) << result.status();
    if (!known()) return;
    EXPECT_GT(result->resizes + result->shared_starts, 0) << "the case shows nothing";
    std::map<sched::JobIndex, double> last;
    for (const sim::JobSpan& span : result->spans)
      last[span.job] = std::max(last[span.job], span.to_s);
    for (const auto& [job, to_s] : last) ends_->Set(job, to_s);
  }
  std::string Expected() const { return expected_; }
  std::string Logged() const {
    std::ifstream file(log_path_);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }

  std::string FirstDifference() const {
    std::istringstream here(Logged()), there(Expected());
    std::string ours, theirs;
    do {
      ours = theirs = "the end";
      std::getline(here, ours);
      std::getline(there, theirs);
    } while (ours == theirs && here && there);
    return "the daemon's log has \"" + ours + "\", the simulator's \"" + theirs + "\"";
  }

  std::string log_path_, expected_;
  sim::Trace trace_;
  std::vector<sched::JobView> jobs_;
  std::map<std::string, int> by_id_;
  std::unique_ptr<sim::EndTimes> ends_;
  std::unique_ptr<TcpPeer> peer_;
  uint64_t request_ = 0;
  size_t next_ = 0;
  double now_s_ = 0;
};

TEST_P(DaemonReplay, TheDecisionLogIsTheSimulatorsByteForByte) {
  Run(0);
  const std::string expected = Expected();
  EXPECT_GT(expected.size(), 1000u);
  EXPECT_TRUE(Logged() == expected) << FirstDifference();
}

TEST_P(DaemonReplay, WhatItHasRunIsTheTraceThatItWasTold) {
  Run(0);
  std::string csv;
  for (int64_t since = 0; since >= 0;) {
    const wire::Answer page = AskCluster(wire::Query{.what = "trace", .since = since});
    ASSERT_TRUE(page.ok);
    EXPECT_EQ(page.data.Int("open", -1), 0);
    csv += page.data.Text("csv");
    since = page.data.Int("next", -1);
  }
  const auto read = sim::ParseTrace(csv, "recorded");
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->job_ids, trace_.job_ids);
  for (size_t i = 0; i < read->jobs.size(); ++i) {
    EXPECT_NEAR(read->jobs[i].submit_s, trace_.jobs[i].submit_s, 1e-3);
    EXPECT_NEAR(read->jobs[i].duration_s, trace_.jobs[i].duration_s, 1e-3) << trace_.job_ids[i];
    EXPECT_EQ(read->jobs[i].gpus, trace_.jobs[i].gpus);
    EXPECT_EQ(read->jobs[i].tier, trace_.jobs[i].tier);
  }
}

TEST_P(DaemonReplay, AlsoWhenTheDaemonIsKilledOnTheWay) {
  Run(6);
  EXPECT_TRUE(Logged() == Expected()) << FirstDifference();
}

TEST_P(DaemonReplay, AlsoFromSnapshotsOfItsState) {
  setenv("TIDE_JOURNAL_INPUTS", "5", 1);
  Run(6);
  unsetenv("TIDE_JOURNAL_INPUTS");
  EXPECT_TRUE(Logged() == Expected()) << FirstDifference();
  const auto journal = coordinator::OpenSqliteJournal(folder() + "/tided.db");
  ASSERT_TRUE(journal.ok()) << journal.status();
  EXPECT_EQ((*journal)->Load()->cluster.snapshots.size(), 2u) << "none was taken";
}

std::string CaseName(const ::testing::TestParamInfo<Case>& info) {
  std::string name = std::string(info.param.trace) + "_" + info.param.policy;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(
    Traces, DaemonReplay,
    ::testing::Values(Case{"tiresias60", "fifo", 16, 0},
                      Case{"tiresias60", "dlas-gpu-fixed", 16, 0}, Case{"itp10", "srtf", 64, 0},
                      Case{"itp10", "themis", 64, 120}, Case{"tiresias60", "lyra", 16, 0},
                      Case{"tiresias60", "lucid", 16, 0}, Case{"muri3", "dlas-gpu", 64, 300},
                      Case{"muri3", "srsf", 64, 0}, Case{"muri3", "muri-s", 64, 300, Dress::kOwn},
                      Case{"muri3", "muri-l", 64, 200, Dress::kOwn},
                      Case{"tiresias60", "afs", 16, 0, Dress::kElastic},
                      Case{"tiresias60", "optimus", 16, 0, Dress::kElastic},
                      Case{"tiresias60", "singularity", 16, 0, Dress::kElastic},
                      Case{"tiresias60", "gandiva", 16, 0, Dress::kElastic},
                      Case{"tiresias60", "antman", 16, 0, Dress::kShared},
                      Case{"tiresias60", "tgs", 16, 0, Dress::kShared},
                      Case{"tiresias60", "salus", 16, 0, Dress::kShared}),
    CaseName);

}  // namespace
}  // namespace tide::coordinator

// kill -9 of the real coordinator again and again while it writes snapshots: what it comes back as
// is what its inputs say.
#include <stdlib.h>
#include <sys/stat.h>

#include <set>

#include "base/random.h"
#include "coordinator/cluster_engine.h"
#include "coordinator/journal.h"
#include "cpp/coordinator/daemon_process.h"

namespace tide::coordinator {
namespace {

constexpr int kRounds = 40;
constexpr int kJobsARound = 60;
constexpr char kPolicy[] = "gandiva-fair";

class ClusterKillTest : public DaemonTest {
 protected:
  ClusterKillTest() {
    std::ofstream(folder() + "/secret") << "a secret of enough bytes";
    chmod((folder() + "/secret").c_str(), 0600);
    setenv("TIDE_JOURNAL_INPUTS", "1", 1);  // each commit has a snapshot while few jobs are open
  }
  ~ClusterKillTest() override { unsetenv("TIDE_JOURNAL_INPUTS"); }

  int Listen() {
    return Start({"--listen", "tcp://127.0.0.1:0", "--secret-file", folder() + "/secret",
                  "--policy", kPolicy});
  }

  /// Submits and ends without waiting, and kills in the middle of it: after as many answers as
  /// chance says, when the next commits are under way.
  void WorkAndKill(int round, Random& random) {
    auto channel = wire::UnixChannel(*wire::ConnectUnix(socket()));
    uint64_t request = 0;
    const auto say = [&](wire::Message message) {
      channel.Send(*wire::EncodeMessage(std::move(message), ++request)).IgnoreError();
    };
    say(wire::Hello{.role = wire::Role::kCli, .pid = getpid()});
    std::vector<std::pair<std::string, bool>> asked(request + 1);  // key, whether it is an end
    for (int job = 0; job < kJobsARound; ++job) {
      const std::string key = std::to_string(round) + "-" + std::to_string(job);
      asked.emplace_back(key, false);
      say(wire::Submit{.key = key, .user = std::to_string(job % 3), .estimate_s = 5});
      if (random.Below(3) == 0) continue;
      asked.emplace_back(key, true);
      maybe_ended_.insert(key);
      say(wire::Finish{.key = key});
    }
    uint64_t answers = random.Below(asked.size() - 2);
    const absl::Time deadline = absl::Now() + kPatience;
    while (answers > 0 && absl::Now() < deadline) {
      auto frame = channel.Receive();
      ASSERT_TRUE(frame.ok()) << frame.status();
      if (!*frame) {
        channel.Wait(absl::Seconds(1));
        continue;
      }
      const auto message = wire::DecodeMessage(**frame);
      const auto* answer = message.ok() ? std::get_if<wire::Answer>(&*message) : nullptr;
      if (answer == nullptr) continue;
      --answers;
      const auto& [key, ends] = asked.at((*frame)->request_id);
      if (answer->ok) ends ? (void)promised_.erase(key) : (void)promised_.insert(key);
    }
    Kill();
  }

  /// The state by a snapshot and the inputs after it.
  static std::string StateFrom(const ClusterHistory& history, const ClusterSnapshot* snapshot) {
    ClusterOptions options{.policy = kPolicy};
    auto engine = snapshot != nullptr ? ClusterEngine::Restore(options, snapshot->bytes)
                                      : ClusterEngine::Make(options);
    EXPECT_TRUE(engine.ok()) << engine.status();
    int64_t seq = snapshot != nullptr ? snapshot->seq : 0;
    for (const auto& [number, row] : history.inputs) {
      if (number <= seq) continue;
      EXPECT_EQ(number, ++seq);
      EXPECT_TRUE((*engine)->Apply(*ClusterInputFromValue(*wire::Unpack(row))).ok());
    }
    return (*engine)->Snapshot();
  }

  std::set<std::string> promised_, maybe_ended_;
};

TEST_F(ClusterKillTest, ItComesBackAsItsInputsSayHoweverOftenItIsKilledBetweenSnapshots) {
  Random random(21);
  size_t snapshots = 0;
  for (int round = 0; round < kRounds && !HasFailure(); ++round) {
    SCOPED_TRACE(round);
    ASSERT_EQ(Listen(), 0);
    if (round > 0) {  // what was answered is there
      const wire::Answer all = Ask(wire::Query{.what = "cluster"});
      ASSERT_TRUE(all.ok);
      std::set<std::string> open;
      for (const wire::Value& job : *all.data.Find("jobs")->As<wire::Value::Array>())
        open.insert(job.Text("key"));
      for (const std::string& key : promised_)
        EXPECT_TRUE(open.contains(key) || maybe_ended_.contains(key)) << key << " is lost";
      for (const std::string& key : open) {  // few are open: each commit has a snapshot
        maybe_ended_.insert(key);
        EXPECT_TRUE(Ask(wire::Finish{.key = key}).ok);
        promised_.erase(key);
      }
    }
    WorkAndKill(round, random);
    auto journal = OpenSqliteJournal(folder() + "/tided.db");
    ASSERT_TRUE(journal.ok()) << journal.status();
    const ClusterHistory history = (*journal)->Load()->cluster;
    ASSERT_FALSE(history.snapshots.empty());
    snapshots += history.snapshots.size();
    const bool whole = !history.inputs.empty() && history.inputs.front().first == 1;
    ASSERT_TRUE(whole || history.snapshots.size() == 2u);
    const std::string state = StateFrom(history, &history.snapshots.front());
    EXPECT_TRUE(StateFrom(history, whole ? nullptr : &history.snapshots.back()) == state)
        << "the newest snapshot is not what the inputs before it say";
    EXPECT_LE(history.inputs.size(), 4u * kJobsARound) << "the inputs before are gone";
  }
  EXPECT_GE(snapshots, 2u * kRounds - 1);
  EXPECT_FALSE(std::filesystem::exists(folder() + "/tided.db.broken"));
}

}  // namespace
}  // namespace tide::coordinator

// The cluster's journal on the disk: it stays small, an old one is taken over, a damaged one is not
// lost.
#include <sqlite3.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/fault.h"
#include "base/random.h"
#include "cpp/coordinator/fakes.h"
#include "cpp/shm/child_process.h"

namespace tide::coordinator {
namespace {

constexpr char kPolicy[] = "dlas-gpu-fixed";  // of the file that was written in layout 1

std::string FileText(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

/// A coordinator on a virtual clock over SQLite, told what the test likes.
class ClusterJournalTest : public ::testing::Test {
 protected:
  ~ClusterJournalTest() override { DisarmFaults(); }

  absl::Status Open(int64_t snapshot_inputs, const std::string& policy = kPolicy) {
    Close();
    auto journal = OpenSqliteJournal(path());
    if (!journal.ok()) return journal.status();
    journal_ = *std::move(journal);
    ClusterSettings settings{.virtual_clock = true, .snapshot_inputs = snapshot_inputs};
    settings.options.policy = policy;
    edges_ = std::make_unique<FakeEdges>();
    core_ = std::make_unique<Core>(Core::Parts{*journal_, *edges_, device_, clock_}, settings);
    const absl::Status started = core_->Start(1);
    if (!started.ok()) return started;
    core_->Connected(kCli, 1);
    Say(wire::Hello{.role = wire::Role::kCli, .pid = 1});
    return absl::OkStatus();
  }
  void Close() {
    core_.reset();
    journal_.reset();
  }
  void Say(wire::Message message) {
    core_->Received(kCli, *wire::EncodeMessage(std::move(message), 7));
  }
  absl::Status Flush() {
    edges_->sent.clear();
    return core_->Flush();
  }
  void Join(const std::string& node, int devices) {
    const PeerId peer(next_peer_++);
    core_->Connected(peer, 0, /*remote=*/true);
    core_->Received(peer, *wire::EncodeMessage(wire::Hello{.role = wire::Role::kNode}));
    core_->Received(peer, *wire::EncodeMessage(wire::Join{.node = node, .devices = devices}));
  }
  /// Three inputs: a job comes, is started, ends.
  void RunJob(int64_t number, bool finish = true) {
    const std::string key = std::to_string(number);
    Say(wire::Submit{
        .key = key, .user = std::to_string(number % 5), .devices = 1, .estimate_s = 1});
    now_s_ += 1;
    Say(wire::Advance{.now_s = now_s_});
    if (finish) Say(wire::Finish{.key = key});
  }
  const ClusterState& cluster() const { return core_->state().cluster; }
  /// Of a copy: the engine itself is the core's.
  std::string State() const {
    return const_cast<ClusterEngine*>(cluster().engine.get())->Snapshot();
  }
  std::string path() const { return folder_.path() + "/tided.db"; }
  int64_t Count(const std::string& what) {
    sqlite3* db = nullptr;
    EXPECT_EQ(sqlite3_open(path().c_str(), &db), SQLITE_OK);
    sqlite3_stmt* statement = nullptr;
    EXPECT_EQ(sqlite3_prepare_v2(db, ("SELECT " + what).c_str(), -1, &statement, nullptr),
              SQLITE_OK);
    EXPECT_EQ(sqlite3_step(statement), SQLITE_ROW);
    const int64_t count = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    sqlite3_close(db);
    return count;
  }
  void Run(const std::string& sql) {
    sqlite3* db = nullptr;
    EXPECT_EQ(sqlite3_open(path().c_str(), &db), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK)
        << sqlite3_errmsg(db);
    sqlite3_close(db);
  }
  /// A cluster of 100 jobs with two snapshots; returns its state.
  std::string WriteTwoSnapshots() {
    EXPECT_TRUE(Open(50).ok());
    Join("n", 4);
    for (int job = 0; job < 100; ++job) {
      RunJob(job, job % 10 != 0);
      EXPECT_TRUE(Flush().ok());
    }
    const std::string state = State();
    Close();
    EXPECT_EQ(Count("COUNT(*) FROM snapshots"), 2);
    return state;
  }

  static constexpr PeerId kCli{1'000'000};
  testing::TempDir folder_;
  SimulatedClock clock_{absl::UnixEpoch() + absl::Hours(1000)};
  FakeDevice device_;
  std::unique_ptr<Journal> journal_;
  std::unique_ptr<FakeEdges> edges_;
  std::unique_ptr<Core> core_;
  int64_t next_peer_ = 1;
  double now_s_ = 0;
};

TEST_F(ClusterJournalTest, TheFileStaysSmallOverAHundredThousandInputs) {
  ASSERT_TRUE(Open(2000).ok());
  Join("n", 4);
  uintmax_t early = 0, largest = 0;
  for (int64_t job = 0; job < 34'000; ++job) {
    RunJob(job);
    if (job % 20 != 0) continue;
    ASSERT_TRUE(Flush().ok());
    const uintmax_t size = std::filesystem::file_size(path());
    if (job < 7000) early = std::max(early, size);
    largest = std::max(largest, size);
  }
  ASSERT_TRUE(Flush().ok());
  EXPECT_GT(cluster().next_input, 100'000);
  RecordProperty("bytes", static_cast<int64_t>(largest));
  // 10,000 events are full after some 3,300 jobs, two times 2,000 inputs long before.
  EXPECT_LT(largest, early + early / 10) << "it grows with what it was told";
  EXPECT_LT(largest, 8u << 20);
  const std::string state = State();
  ASSERT_TRUE(Open(2000).ok());
  EXPECT_LE(Count("COUNT(*) FROM inputs"), 2 * 2000 + 60 + 1);
  EXPECT_TRUE(State() == state);
}

TEST_F(ClusterJournalTest, AFileOfLayout1IsReplayedAndGoesOnWithSnapshots) {
  std::filesystem::copy_file(std::string(TIDE_TEST_DATA) + "/journal_layout_1.db", path());
  ASSERT_EQ(Count("value FROM meta WHERE key='layout_version'"), 1);
  std::vector<std::string> rows;
  {
    auto journal = *OpenSqliteJournal(path());
    const JournalContent content = *journal->Load();
    EXPECT_TRUE(content.cluster.upgraded);
    EXPECT_TRUE(content.cluster.snapshots.empty());
    EXPECT_EQ(content.events.size(), 63u);
    for (const auto& [seq, row] : content.cluster.inputs) rows.push_back(row);
  }
  ASSERT_EQ(rows.size(), 122u);
  ClusterOptions options{.policy = kPolicy};
  auto engine = *ClusterEngine::Make(options);
  std::string log;
  for (const std::string& row : rows) {
    ASSERT_TRUE(engine->Apply(*ClusterInputFromValue(*wire::Unpack(row))).ok());
    log += engine->TakeLog();
  }
  EXPECT_EQ(log, FileText(std::string(TIDE_TEST_DATA) + "/journal_layout_1.log"));

  std::filesystem::remove(path());
  std::filesystem::copy_file(std::string(TIDE_TEST_DATA) + "/journal_layout_1.db", path());
  ASSERT_TRUE(Open(10'000).ok());
  EXPECT_TRUE(State() == engine->Snapshot());
  EXPECT_EQ(Count("value FROM meta WHERE key='layout_version'"), 2);
  EXPECT_EQ(Count("COUNT(*) FROM snapshots"), 1) << "at once, not after 10000 inputs";
  now_s_ = engine->now_s();
  RunJob(1000);
  ASSERT_TRUE(Flush().ok());
  const std::string state = State();
  ASSERT_TRUE(Open(10'000).ok());
  EXPECT_TRUE(State() == state);
  EXPECT_EQ(cluster().snapshot_seq, 122);
  EXPECT_EQ(cluster().next_input, 122 + 3 + 1);
}

// Written before jobs could be moved: version 1 of the snapshot, and all inputs since the
// beginning.
TEST_F(ClusterJournalTest, ASnapshotOfVersion1IsTheStateThatItsInputsGive) {
  std::filesystem::copy_file(std::string(TIDE_TEST_DATA) + "/cluster_snapshot_1.db", path());
  ClusterHistory history;
  {
    auto journal = *OpenSqliteJournal(path());
    history = journal->Load()->cluster;
  }
  ASSERT_EQ(history.snapshots.size(), 1u);
  ASSERT_EQ(history.inputs.size(), 127u);
  ClusterOptions options{.policy = kPolicy};
  auto told = *ClusterEngine::Make(options);
  std::string at_snapshot;
  for (const auto& [seq, row] : history.inputs) {
    ASSERT_TRUE(told->Apply(*ClusterInputFromValue(*wire::Unpack(row))).ok());
    if (seq == history.snapshots[0].seq) at_snapshot = told->Snapshot();
  }
  auto restored = ClusterEngine::Restore(options, history.snapshots[0].bytes);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_FALSE((*restored)->retold());
  EXPECT_GT((*restored)->running_jobs(), 0u);
  EXPECT_TRUE((*restored)->Snapshot() == at_snapshot);
  ASSERT_TRUE(Open(50).ok());
  EXPECT_TRUE(State() == told->Snapshot());
}

TEST_F(ClusterJournalTest, OfTwoSnapshotsTheOneBeforeServesWhenTheLastIsDamaged) {
  for (const char* damage : {"substr(body, 1, length(body) / 2)", "x''",
                             "CAST(replace(hex(body), '6E', '6F') AS BLOB)"}) {
    SCOPED_TRACE(damage);
    for (const char* suffix : {"", "-wal", "-shm"}) std::filesystem::remove(path() + suffix);
    now_s_ = 0;
    const std::string state = WriteTwoSnapshots();
    const int64_t last = Count("MAX(seq) FROM snapshots");
    Run(std::string("UPDATE snapshots SET body=") + damage +
        " WHERE seq=(SELECT MAX(seq) FROM snapshots)");
    ASSERT_TRUE(Open(50).ok());
    EXPECT_TRUE(State() == state);
    EXPECT_LE(last, cluster().snapshot_seq) << "a new one has taken the place of the damaged one";
    Close();
    EXPECT_FALSE(std::filesystem::exists(path() + ".broken"));
    ASSERT_TRUE(Open(50).ok());
    EXPECT_TRUE(State() == state);
  }
}

TEST_F(ClusterJournalTest, WithBothSnapshotsDamagedItDoesNotStartAndTheFileStays) {
  WriteTwoSnapshots();
  Run("UPDATE snapshots SET body=substr(body, 1, 40)");
  const absl::Status started = Open(50);
  EXPECT_EQ(started.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(started.message(),
            "the journal has 2 snapshots of the cluster, none of which can be read, and not all "
            "inputs: move tided.db away to begin without jobs, or put a copy of it back");
  Close();
  EXPECT_EQ(Count("COUNT(*) FROM snapshots"), 2);
}

TEST_F(ClusterJournalTest, AMissingInputIsAnErrorAndNotASilentLoss) {
  WriteTwoSnapshots();
  Run("DELETE FROM inputs WHERE seq=(SELECT MAX(seq) FROM snapshots)+2");
  EXPECT_EQ(Open(50).code(), absl::StatusCode::kDataLoss);
}

TEST_F(ClusterJournalTest, WithBothSnapshotsLostAndAllInputsThereItBeginsWithThose) {
  ASSERT_TRUE(Open(0).ok()) << "never a snapshot";
  Join("n", 4);
  for (int job = 0; job < 30; ++job) RunJob(job, job % 10 != 0);
  ASSERT_TRUE(Flush().ok());
  EXPECT_EQ(Count("COUNT(*) FROM snapshots"), 0);
  ASSERT_TRUE(Open(50).ok());
  RunJob(100);
  ASSERT_TRUE(Flush().ok());
  const std::string state = State();
  Close();
  ASSERT_EQ(Count("COUNT(*) FROM snapshots"), 1);
  Run("UPDATE snapshots SET body=x'00'");
  ASSERT_TRUE(Open(50).ok());
  EXPECT_TRUE(State() == state);
}

TEST_F(ClusterJournalTest, ASnapshotThatCannotBeWrittenTakesNothingWithIt) {
  ASSERT_TRUE(Open(10).ok());
  Join("n", 4);
  std::string state;
  int64_t next = 0;
  for (int job = 0; job < 200; ++job) {
    if (job % 7 == 3) ArmFault("coordinator.journal_commit", absl::ResourceExhaustedError("full"));
    RunJob(job, job % 10 != 0);
    const bool kept = Flush().ok();
    ASSERT_EQ(kept, job % 7 != 3);
    if (kept) {
      state = State();
      next = cluster().next_input;
      continue;
    }
    ASSERT_TRUE(Open(10).ok());
    ASSERT_TRUE(State() == state) << "what was answered is there, what was not is not";
    ASSERT_EQ(cluster().next_input, next);
    now_s_ = cluster().engine->now_s();
  }
}

TEST_F(ClusterJournalTest, UnderAnotherPolicyAnOldSnapshotIsToldAnewAndReplacedAtOnce) {
  WriteTwoSnapshots();
  const int64_t before = Count("MAX(seq) FROM snapshots");
  ASSERT_TRUE(Open(50, "srtf").ok());
  now_s_ = cluster().engine->now_s();
  RunJob(500);
  ASSERT_TRUE(Flush().ok());
  EXPECT_GT(cluster().snapshot_seq, before);
  const std::string state = State();
  ASSERT_TRUE(Open(50, "srtf").ok());
  EXPECT_FALSE(cluster().engine->retold());
  EXPECT_TRUE(State() == state);
}

}  // namespace
}  // namespace tide::coordinator

// The journal in SQLite.
#include "coordinator/journal.h"

#include <sqlite3.h>
#include <stdio.h>
#include <sys/stat.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/status.h"

namespace tide::coordinator {
namespace {

constexpr int64_t kLayoutVersion = 2;
constexpr int64_t kLayoutWithoutSnapshots = 1;  // and otherwise the same
constexpr int64_t kPruneEvery = 1000;

constexpr char kOpen[] =
    "PRAGMA busy_timeout=2000; PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
    "CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;";
constexpr char kSchema[] =
    "CREATE TABLE IF NOT EXISTS jobs(id INTEGER PRIMARY KEY, body BLOB NOT NULL);"
    "CREATE TABLE IF NOT EXISTS events(seq INTEGER PRIMARY KEY, body BLOB NOT NULL);"
    "CREATE TABLE IF NOT EXISTS inputs(seq INTEGER PRIMARY KEY, body BLOB NOT NULL);"
    "CREATE TABLE IF NOT EXISTS snapshots(seq INTEGER PRIMARY KEY, body BLOB NOT NULL);";

/// A prepared statement that finalises itself.
class Statement {
 public:
  Statement(sqlite3* db, const char* sql) { sqlite3_prepare_v2(db, sql, -1, &statement_, nullptr); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;
  ~Statement() { sqlite3_finalize(statement_); }

  Statement& Bind(int index, int64_t value) {
    sqlite3_bind_int64(statement_, index, value);
    return *this;
  }
  Statement& Bind(int index, absl::string_view bytes, bool text = false) {
    const int size = static_cast<int>(bytes.size());
    text ? sqlite3_bind_text(statement_, index, bytes.data(), size, SQLITE_TRANSIENT)
         : sqlite3_bind_blob(statement_, index, bytes.data(), size, SQLITE_TRANSIENT);
    return *this;
  }
  bool Step() {
    result_ = statement_ != nullptr ? sqlite3_step(statement_) : SQLITE_ERROR;
    return result_ == SQLITE_ROW;
  }
  /// After Step said that there is no more: whether that was the end, and not an error.
  bool AtEnd() const { return result_ == SQLITE_DONE; }
  /// For a statement without rows; leaves it ready for the next values.
  bool Run() {
    const bool done = statement_ != nullptr && sqlite3_step(statement_) == SQLITE_DONE;
    sqlite3_reset(statement_);
    return done;
  }
  int64_t Int(int column) { return sqlite3_column_int64(statement_, column); }
  std::string Blob(int column) {
    const void* bytes = sqlite3_column_blob(statement_, column);
    return std::string(static_cast<const char*>(bytes),
                       bytes ? sqlite3_column_bytes(statement_, column) : 0);
  }

 private:
  sqlite3_stmt* statement_ = nullptr;
  int result_ = SQLITE_OK;
};

class SqliteJournal final : public Journal {
 public:
  SqliteJournal(sqlite3* db, const JournalOptions& options)
      : db_(db),
        events_kept_(std::max<int64_t>(1, options.events_kept)),
        prune_every_(std::min(kPruneEvery, events_kept_)) {}
  ~SqliteJournal() override { sqlite3_close(db_); }

  /// Makes the tables, or brings them to this layout, and reads what is there for the first Load.
  absl::Status Prepare();
  absl::StatusOr<JournalContent> Load() override;
  absl::Status Commit(const JournalBatch& batch) override;

 private:
  absl::Status Error(absl::string_view what) {
    const int code = sqlite3_errcode(db_) & 0xff;
    const std::string text = absl::StrCat(what, ": ", sqlite3_errmsg(db_));
    if (code == SQLITE_CORRUPT || code == SQLITE_NOTADB) return absl::DataLossError(text);
    if (code == SQLITE_FULL) return absl::ResourceExhaustedError(text);
    return absl::InternalError(text);
  }
  absl::Status Execute(const char* sql) {
    return sqlite3_exec(db_, sql, nullptr, nullptr, nullptr) == SQLITE_OK ? absl::OkStatus()
                                                                          : Error("journal");
  }
  int64_t Meta(const char* key, int64_t otherwise) {
    Statement read(db_, "SELECT value FROM meta WHERE key=?");
    return read.Bind(1, key, true).Step() ? read.Int(0) : otherwise;
  }
  bool SaveMeta(const char* key, int64_t value) {
    Statement write(
        db_, "INSERT INTO meta VALUES(?,?) ON CONFLICT(key) DO UPDATE SET value=excluded.value");
    return write.Bind(1, key, true).Bind(2, value).Run();
  }
  bool Write(const JournalBatch& batch);
  bool WriteCluster(const JournalBatch& batch);
  bool WriteEvents(const std::vector<wire::Event>& events);
  absl::StatusOr<JournalContent> Read();
  absl::Status ReadCluster(ClusterHistory& history);
  absl::Status ReadEvents(std::vector<wire::Event>& events);

  sqlite3* const db_;
  const int64_t events_kept_, prune_every_;
  std::optional<JournalContent> read_;  // until the first Load or Commit
  int64_t events_since_prune_ = 0;
};

absl::Status SqliteJournal::Prepare() {
  TIDE_RETURN_IF_ERROR(Execute(kOpen));
  const int64_t version = Meta("layout_version", 0);
  if (version != 0 && version != kLayoutWithoutSnapshots && version != kLayoutVersion)
    return absl::FailedPreconditionError(absl::StrCat("journal has layout ", version));
  if (version != kLayoutVersion) {
    TIDE_RETURN_IF_ERROR(Execute("BEGIN IMMEDIATE"));
    absl::Status made = Execute(kSchema);
    if (made.ok() && !SaveMeta("layout_version", kLayoutVersion))
      made = Error("cannot write the journal");
    if (made.ok()) made = Execute("COMMIT");
    if (!made.ok()) {
      Execute("ROLLBACK").IgnoreError();
      return made;
    }
  }
  TIDE_ASSIGN_OR_RETURN(read_, Read());
  read_->cluster.upgraded = version == kLayoutWithoutSnapshots;
  return absl::OkStatus();
}

absl::StatusOr<JournalContent> SqliteJournal::Load() {
  if (!read_) return Read();
  JournalContent content = *std::move(read_);
  read_.reset();
  return content;
}

absl::StatusOr<JournalContent> SqliteJournal::Read() {
  JournalContent content;
  content.generation = Meta("generation", 0);
  content.next_job_id = Meta("next_job_id", 1);
  content.next_order_id = Meta("next_order_id", 1);
  content.log_bytes = Meta("log_bytes", 0);
  TIDE_RETURN_IF_ERROR(ReadCluster(content.cluster));
  Statement jobs(db_, "SELECT body FROM jobs ORDER BY id");
  while (jobs.Step()) {
    TIDE_ASSIGN_OR_RETURN(const wire::Value value, wire::Unpack(jobs.Blob(0)));
    content.jobs.push_back(JobFromValue(value));
    content.next_job_id = std::max(content.next_job_id, content.jobs.back().id.value() + 1);
  }
  if (!jobs.AtEnd()) return Error("cannot read the journal's jobs");
  TIDE_RETURN_IF_ERROR(ReadEvents(content.events));
  if (!content.events.empty()) content.next_seq = content.events.back().seq + 1;
  return content;
}

absl::Status SqliteJournal::ReadCluster(ClusterHistory& history) {
  Statement snapshots(db_, "SELECT seq, body FROM snapshots ORDER BY seq DESC");
  while (snapshots.Step())
    history.snapshots.push_back({.seq = snapshots.Int(0), .bytes = snapshots.Blob(1)});
  if (!snapshots.AtEnd()) return Error("cannot read the journal's snapshots");
  Statement inputs(db_, "SELECT seq, body FROM inputs ORDER BY seq");
  while (inputs.Step()) history.inputs.emplace_back(inputs.Int(0), inputs.Blob(1));
  return inputs.AtEnd() ? absl::OkStatus() : Error("cannot read the journal's inputs");
}

absl::Status SqliteJournal::ReadEvents(std::vector<wire::Event>& events) {
  Statement rows(db_, "SELECT body FROM events ORDER BY seq DESC LIMIT ?");
  rows.Bind(1, static_cast<int64_t>(kEventsInMemory));
  while (rows.Step()) {
    auto message = wire::DecodeMessage(wire::Frame{wire::FrameKind::kEvent, 0, 0, rows.Blob(0)});
    if (!message.ok()) return message.status();
    events.push_back(std::get<wire::Event>(*std::move(message)));
  }
  if (!rows.AtEnd()) return Error("cannot read the journal's events");
  std::reverse(events.begin(), events.end());
  return absl::OkStatus();
}

bool SqliteJournal::Write(const JournalBatch& batch) {
  bool good = SaveMeta("generation", batch.generation) &&
              SaveMeta("next_job_id", batch.next_job_id) &&
              SaveMeta("next_order_id", batch.next_order_id);
  Statement job_row(db_, "INSERT OR REPLACE INTO jobs VALUES(?,?)");
  for (const Job& job : batch.jobs) {
    good = good &&
           job_row.Bind(1, job.id.value()).Bind(2, wire::Pack(wire::Value(JobToValue(job)))).Run();
  }
  Statement forget(db_, "DELETE FROM jobs WHERE id=?");
  for (const JobId& id : batch.forgotten) good = good && forget.Bind(1, id.value()).Run();
  if (batch.log_bytes >= 0) good = good && SaveMeta("log_bytes", batch.log_bytes);
  return good && WriteCluster(batch) && WriteEvents(batch.events);
}

// The snapshot before the new one stays, and the inputs between them, so that one of the two may be
// damaged without a loss.
bool SqliteJournal::WriteCluster(const JournalBatch& batch) {
  bool good = true;
  if (!batch.inputs.empty()) {
    Statement input_row(db_, "INSERT INTO inputs VALUES(?,?)");
    for (const auto& [seq, row] : batch.inputs)
      good = good && input_row.Bind(1, seq).Bind(2, row).Run();
  }
  if (!batch.snapshot) return good;
  Statement snapshot_row(db_, "INSERT OR REPLACE INTO snapshots VALUES(?,?)");
  Statement old_snapshots(db_,
                          "DELETE FROM snapshots WHERE seq < (SELECT MIN(seq) FROM (SELECT seq "
                          "FROM snapshots ORDER BY seq DESC LIMIT 2))");
  Statement old_inputs(db_,
                       "DELETE FROM inputs WHERE seq <= (SELECT MIN(seq) FROM snapshots) AND "
                       "(SELECT COUNT(*) FROM snapshots) = 2");
  return good && snapshot_row.Bind(1, batch.snapshot->seq).Bind(2, batch.snapshot->bytes).Run() &&
         old_snapshots.Run() && old_inputs.Run();
}

bool SqliteJournal::WriteEvents(const std::vector<wire::Event>& events) {
  bool good = true;
  Statement event_row(db_, "INSERT OR REPLACE INTO events VALUES(?,?)");
  for (const wire::Event& event : events) {
    good = good && event_row.Bind(1, event.seq)
                       .Bind(2, wire::Pack(wire::Value(wire::EventRecord(event))))
                       .Run();
  }
  events_since_prune_ += static_cast<int64_t>(events.size());
  if (events_since_prune_ < prune_every_) return good;
  events_since_prune_ = 0;
  Statement prune(db_, "DELETE FROM events WHERE seq <= (SELECT MAX(seq) FROM events) - ?");
  return good && prune.Bind(1, events_kept_).Run();
}

absl::Status SqliteJournal::Commit(const JournalBatch& batch) {
  TIDE_RETURN_IF_ERROR(FaultPoint("coordinator.journal_commit"));
  read_.reset();  // it is older than this
  TIDE_RETURN_IF_ERROR(Execute("BEGIN IMMEDIATE"));
  if (!Write(batch)) {
    const absl::Status error = Error("cannot write the journal");
    Execute("ROLLBACK").IgnoreError();
    return error;
  }
  const absl::Status committed = Execute("COMMIT");
  if (!committed.ok()) Execute("ROLLBACK").IgnoreError();
  return committed;
}

absl::StatusOr<std::unique_ptr<Journal>> TryOpen(const std::string& path,
                                                 const JournalOptions& options) {
  sqlite3* db = nullptr;
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
  if (sqlite3_open_v2(path.c_str(), &db, flags, nullptr) != SQLITE_OK) {
    const std::string why = db != nullptr ? sqlite3_errmsg(db) : "out of memory";
    sqlite3_close(db);
    return absl::UnavailableError(absl::StrCat("cannot open ", path, ": ", why));
  }
  chmod(path.c_str(), 0600);
  auto journal = std::make_unique<SqliteJournal>(db, options);
  TIDE_RETURN_IF_ERROR(journal->Prepare());
  return std::unique_ptr<Journal>(std::move(journal));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Journal>> OpenSqliteJournal(const std::string& path,
                                                           const JournalOptions& options) {
  auto journal = TryOpen(path, options);
  if (journal.ok()) return journal;
  // A full or broken disk says nothing of what is in the file.
  const absl::StatusCode code = journal.status().code();
  if (code == absl::StatusCode::kInternal || code == absl::StatusCode::kResourceExhausted ||
      code == absl::StatusCode::kUnavailable)
    return journal;
  Log(LogLevel::kError, absl::StrCat("event=journal_set_aside path=", path, " reason=\"",
                                     journal.status().message(), "\""));
  for (const char* suffix : {"", "-wal", "-shm"}) {
    rename(absl::StrCat(path, suffix).c_str(), absl::StrCat(path, ".broken", suffix).c_str());
  }
  return TryOpen(path, options);
}

}  // namespace tide::coordinator

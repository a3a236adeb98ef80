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

constexpr int kLayoutVersion = 1;
constexpr int64_t kEventsKept = 10'000;
constexpr int64_t kPruneEvery = 1000;

constexpr char kSchema[] =
    "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=2000;"
    "CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS jobs(id INTEGER PRIMARY KEY, body BLOB NOT NULL);"
    "CREATE TABLE IF NOT EXISTS events(seq INTEGER PRIMARY KEY, body BLOB NOT NULL);"
    "CREATE TABLE IF NOT EXISTS inputs(seq INTEGER PRIMARY KEY, body BLOB NOT NULL);";

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
  bool Step() { return statement_ != nullptr && sqlite3_step(statement_) == SQLITE_ROW; }
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
};

class SqliteJournal final : public Journal {
 public:
  explicit SqliteJournal(sqlite3* db) : db_(db) {}
  ~SqliteJournal() override { sqlite3_close(db_); }

  absl::Status Prepare() {
    TIDE_RETURN_IF_ERROR(Execute(kSchema));
    const int64_t version = Meta("layout_version", kLayoutVersion);
    if (version != kLayoutVersion) {
      return absl::FailedPreconditionError(absl::StrCat("journal has layout ", version));
    }
    return SaveMeta("layout_version", kLayoutVersion) ? absl::OkStatus()
                                                      : Error("cannot write the journal");
  }

  absl::StatusOr<JournalContent> Load() override;
  absl::Status Commit(const JournalBatch& batch) override;

 private:
  absl::Status Error(absl::string_view what) {
    return absl::InternalError(absl::StrCat(what, ": ", sqlite3_errmsg(db_)));
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

  sqlite3* const db_;
  int64_t events_since_prune_ = 0;
};

absl::StatusOr<JournalContent> SqliteJournal::Load() {
  JournalContent content;
  content.generation = Meta("generation", 0);
  content.next_job_id = Meta("next_job_id", 1);
  content.next_order_id = Meta("next_order_id", 1);
  content.log_bytes = Meta("log_bytes", 0);
  Statement inputs(db_, "SELECT body FROM inputs ORDER BY seq");
  while (inputs.Step()) content.inputs.push_back(inputs.Blob(0));
  Statement jobs(db_, "SELECT body FROM jobs ORDER BY id");
  while (jobs.Step()) {
    auto value = wire::Unpack(jobs.Blob(0));
    if (!value.ok()) return value.status();
    content.jobs.push_back(JobFromValue(*value));
    content.next_job_id = std::max(content.next_job_id, content.jobs.back().id.value() + 1);
  }
  Statement events(db_, "SELECT body FROM events ORDER BY seq DESC LIMIT ?");
  events.Bind(1, static_cast<int64_t>(kEventsInMemory));
  while (events.Step()) {
    auto message = wire::DecodeMessage(wire::Frame{wire::FrameKind::kEvent, 0, 0, events.Blob(0)});
    if (!message.ok()) return message.status();
    content.events.push_back(std::get<wire::Event>(*std::move(message)));
  }
  std::reverse(content.events.begin(), content.events.end());
  if (!content.events.empty()) content.next_seq = content.events.back().seq + 1;
  return content;
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
  if (!batch.inputs.empty()) {
    Statement input_row(db_, "INSERT INTO inputs VALUES(?,?)");
    for (const auto& [seq, row] : batch.inputs)
      good = good && input_row.Bind(1, seq).Bind(2, row).Run();
  }
  Statement event_row(db_, "INSERT OR REPLACE INTO events VALUES(?,?)");
  for (const wire::Event& event : batch.events) {
    good = good && event_row.Bind(1, event.seq)
                       .Bind(2, wire::Pack(wire::Value(wire::EventRecord(event))))
                       .Run();
  }
  events_since_prune_ += static_cast<int64_t>(batch.events.size());
  if (events_since_prune_ >= kPruneEvery) {
    events_since_prune_ = 0;
    Statement prune(db_, "DELETE FROM events WHERE seq <= (SELECT MAX(seq) FROM events) - ?");
    good = good && prune.Bind(1, kEventsKept).Run();
  }
  return good;
}

absl::Status SqliteJournal::Commit(const JournalBatch& batch) {
  TIDE_RETURN_IF_ERROR(FaultPoint("coordinator.journal_commit"));
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

absl::StatusOr<std::unique_ptr<Journal>> TryOpen(const std::string& path) {
  sqlite3* db = nullptr;
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
  if (sqlite3_open_v2(path.c_str(), &db, flags, nullptr) != SQLITE_OK) {
    const std::string why = db != nullptr ? sqlite3_errmsg(db) : "out of memory";
    sqlite3_close(db);
    return absl::UnavailableError(absl::StrCat("cannot open ", path, ": ", why));
  }
  chmod(path.c_str(), 0600);
  auto journal = std::make_unique<SqliteJournal>(db);
  TIDE_RETURN_IF_ERROR(journal->Prepare());
  TIDE_RETURN_IF_ERROR(journal->Load().status());
  return std::unique_ptr<Journal>(std::move(journal));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Journal>> OpenSqliteJournal(const std::string& path) {
  auto journal = TryOpen(path);
  if (journal.ok()) return journal;
  Log(LogLevel::kError, absl::StrCat("event=journal_set_aside path=", path, " reason=\"",
                                     journal.status().message(), "\""));
  for (const char* suffix : {"", "-wal", "-shm"}) {
    rename(absl::StrCat(path, suffix).c_str(), absl::StrCat(path, ".broken", suffix).c_str());
  }
  return TryOpen(path);
}

}  // namespace tide::coordinator

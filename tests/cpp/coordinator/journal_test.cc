// What survives.
#include "coordinator/journal.h"

#include <sqlite3.h>

#include <fstream>

#include "cpp/shm/child_process.h"
#include "gtest/gtest.h"

namespace tide::coordinator {
namespace {

Job Sample(int64_t id) {
  Job job;
  job.id = JobId(id);
  job.name = "train";
  job.pid = 7;
  job.wanted = {.limit_bytes = 5,
                .guaranteed_bytes = 3,
                .priority = wire::Priority::kGuaranteed,
                .weight = 2.5};
  job.revision = 4;
  job.paused = true;
  job.exit = Exit{.signal = 9, .time = 1.5};
  return job;
}

TEST(JournalTest, WhatWasCommittedIsThereAfterAReopen) {
  testing::TempDir folder;
  const std::string path = folder.path() + "/tided.db";
  {
    auto journal = OpenSqliteJournal(path);
    ASSERT_TRUE(journal.ok()) << journal.status();
    JournalBatch batch{
        .jobs = {Sample(3), Sample(4)}, .generation = 8, .next_job_id = 5, .next_order_id = 6};
    batch.events.push_back(
        {.seq = 1, .time = 2.5, .kind = "k", .job = "train", .text = "t", .data = {{"n", 1}}});
    ASSERT_TRUE((*journal)->Commit(batch).ok());
    JournalBatch second{
        .forgotten = {JobId(4)}, .generation = 8, .next_job_id = 5, .next_order_id = 6};
    ASSERT_TRUE((*journal)->Commit(second).ok());
  }
  auto content = (*OpenSqliteJournal(path))->Load();
  ASSERT_TRUE(content.ok());
  EXPECT_EQ(content->generation, 8);
  EXPECT_EQ(content->next_job_id, 5);
  EXPECT_EQ(content->next_seq, 2);
  ASSERT_EQ(content->jobs.size(), 1u);
  const Job& job = content->jobs[0];
  EXPECT_EQ(job.wanted, Sample(3).wanted);
  EXPECT_EQ(job.revision, 4);
  EXPECT_TRUE(job.paused);
  EXPECT_EQ(job.exit->signal, 9);
  EXPECT_FALSE(job.exit->code.has_value());
  ASSERT_EQ(content->events.size(), 1u);
  EXPECT_EQ(content->events[0].data[0].first, "n");
}

TEST(JournalTest, AFileThatIsNoDatabaseIsSetAsideAndANewOneBegun) {
  testing::TempDir folder;
  const std::string path = folder.path() + "/tided.db";
  std::ofstream(path) << std::string(5000, 'x');
  auto journal = OpenSqliteJournal(path);
  ASSERT_TRUE(journal.ok()) << journal.status();
  EXPECT_TRUE((*journal)->Load()->jobs.empty());
  EXPECT_TRUE(std::filesystem::exists(path + ".broken"));
}

TEST(JournalTest, TheFileIsPrivate) {
  testing::TempDir folder;
  auto journal = OpenSqliteJournal(folder.path() + "/tided.db");
  const auto mode = std::filesystem::status(folder.path() + "/tided.db").permissions();
  EXPECT_EQ(mode & std::filesystem::perms::all,
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
}

TEST(JournalTest, OldEventsGo) {
  testing::TempDir folder;
  auto journal = OpenSqliteJournal(folder.path() + "/tided.db");
  JournalBatch batch;
  for (int64_t seq = 1; seq <= 12'000; ++seq)
    batch.events.push_back({.seq = seq, .kind = "k", .text = "t"});
  ASSERT_TRUE((*journal)->Commit(batch).ok());
  const auto content = (*journal)->Load();
  EXPECT_EQ(content->events.size(), kEventsInMemory);
  EXPECT_EQ(content->events.back().seq, 12'000);
}

TEST(JournalTest, AsManyEventsStayAsTheOptionSays) {
  testing::TempDir folder;
  auto journal = OpenSqliteJournal(folder.path() + "/tided.db", {.events_kept = 100});
  for (int64_t seq = 1; seq <= 1000; ++seq) {
    JournalBatch batch;
    batch.events.push_back({.seq = seq, .kind = "k", .text = "t"});
    ASSERT_TRUE((*journal)->Commit(batch).ok());
  }
  const auto content = (*journal)->Load();
  EXPECT_EQ(content->events.size(), 100u);
  EXPECT_EQ(content->events.front().seq, 901);
}

TEST(JournalTest, AFileOfALayoutThatIsNotKnownIsSetAside) {
  testing::TempDir folder;
  const std::string path = folder.path() + "/tided.db";
  ASSERT_TRUE((*OpenSqliteJournal(path))->Commit({.jobs = {Sample(3)}}).ok());
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(path.c_str(), &db), SQLITE_OK);
  sqlite3_exec(db, "UPDATE meta SET value=9 WHERE key='layout_version'", nullptr, nullptr, nullptr);
  sqlite3_close(db);
  EXPECT_TRUE((*OpenSqliteJournal(path))->Load()->jobs.empty());
  EXPECT_TRUE(std::filesystem::exists(path + ".broken"));
}

}  // namespace
}  // namespace tide::coordinator

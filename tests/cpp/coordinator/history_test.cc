// What the daemon remembers of jobs that are gone: looks, thinning, answers, the file.
#include "coordinator/history.h"

#include <unistd.h>

#include "coordinator/history_file.h"
#include "cpp/coordinator/fakes.h"

namespace tide::coordinator {
namespace {

using Samples = std::deque<History::Sample>;

History::Sample At(int64_t unix_ms, int64_t jobs = 1) {
  History::Sample sample{unix_ms, unix_ms * 2, {}};
  for (int64_t id = 1; id <= jobs; ++id)
    sample.jobs.push_back({id, "running", unix_ms + id, id, unix_ms / 1000});
  return sample;
}

class LookTest : public CoreTest {
 protected:
  const Samples& samples() const { return core_->state().history.samples(); }
};

TEST_F(LookTest, EachSecondOfALiveJobIsSeen) {
  SlotView& slot = device_.Add(0, 10, "train");
  slot.private_bytes = 100, slot.outside_bytes = 7, slot.demoted_bytes = 5;
  device_.view.held_bytes = 107;
  Pass(absl::Seconds(5));
  StartJob("train", 10, {.script = "train.py"});
  for (int i = 0; i < 40; ++i) {
    ++device_.view.slots[0].iterations;
    Pass(absl::Milliseconds(100));
  }
  ASSERT_GE(samples().size(), 3u);
  const History::Sample& last = samples().back();
  EXPECT_EQ(last.used_bytes, 107);
  ASSERT_EQ(last.jobs.size(), 1u);
  EXPECT_EQ(last.jobs[0].memory_bytes, 107);
  EXPECT_EQ(last.jobs[0].demoted_bytes, 5);
  const int64_t id = core_->state().FindJob("train")->id.value();
  EXPECT_EQ(last.jobs[0].id, id);
  EXPECT_EQ(core_->state().history.names().at(id), (History::Names{"train", "train.py"}));
  for (size_t i = 1; i < samples().size(); ++i)
    EXPECT_GE(samples()[i].unix_ms - samples()[i - 1].unix_ms, 1000);
}

TEST_F(LookTest, AnEmptyMachineIsSeenOnceAfterItsJobs) {
  StartJob("train", 10);
  Pass(absl::Seconds(2));
  End("train", {});
  const size_t before = samples().size();
  for (int i = 0; i < 10; ++i) Pass(absl::Seconds(2));
  ASSERT_EQ(samples().size(), before + 1);
  EXPECT_TRUE(samples().back().jobs.empty());
}

TEST_F(LookTest, ItIsAskedForByQuery) {
  StartJob("train", 10);
  for (int i = 0; i < 4; ++i) Pass(absl::Seconds(2));
  const wire::Value all = Ask(wire::Query{.what = "history"}).data;
  const auto* rows = all.Find("samples")->As<wire::Value::Array>();
  ASSERT_EQ(rows->size(), samples().size());
  EXPECT_EQ(all.Find("jobs")->As<wire::Value::Array>()->at(0).Text("name"), "train");
  const auto page = core_->Http({.path = "/api/history", .since = samples().back().unix_ms - 1});
  EXPECT_EQ(page->text,
            ToJson(wire::Value(core_->state().history.Answer(samples().back().unix_ms - 1, 0))));
}

TEST(HistoryTest, WhatIsNewStaysWholeAndAllStaysBounded) {
  History history(/*points_max=*/1000);
  for (int64_t i = 0; i < 50'000; ++i) history.Add(At(i * 1000, 1 + i % 4));
  const Samples& samples = history.samples();
  size_t points = 0;
  for (const History::Sample& sample : samples) points += 1 + sample.jobs.size();
  EXPECT_LE(points, 1000u);
  EXPECT_GE(points, 200u);
  EXPECT_EQ(samples.back().unix_ms, 49'999'000);
  for (size_t i = samples.size() - 16; i < samples.size(); ++i)
    EXPECT_EQ(samples[i].unix_ms, samples[i - 1].unix_ms + 1000) << i;
  EXPECT_EQ(samples.front().unix_ms, 0) << "what is long ago is seldom, not gone";
  for (size_t i = 1; i < samples.size(); ++i) {
    const int64_t age_ms = 49'999'000 - samples[i - 1].unix_ms;
    EXPECT_LE(samples[i].unix_ms - samples[i - 1].unix_ms, age_ms / 8 + 1000) << i;
  }
}

TEST(HistoryTest, WhatNoThinningMakesRoomForLosesItsOldestSamples) {
  History history(/*points_max=*/100);
  for (int64_t i = 0; i < 20; ++i) history.Add(At(i * 1000, 30));
  ASSERT_GE(history.samples().size(), 2u);
  ASSERT_LE(history.samples().size(), 3u);
  EXPECT_EQ(history.samples().back().unix_ms, 19'000);
}

TEST(HistoryTest, NamesGoWithTheLastSampleOfTheirJob) {
  History history(/*points_max=*/40);
  State state;
  DeviceView view;
  view.slots.push_back({.index = 0, .pid = 77, .name = "old"});
  history.Look(state, view, 1000);
  view.slots[0].pid = 78, view.slots[0].name = "new";
  for (int64_t i = 2; i < 500; ++i) history.Look(state, view, i * 1000);
  EXPECT_FALSE(history.names().contains(-77));
  EXPECT_EQ(history.names().at(-78).name, "new");
}

TEST(HistoryTest, AnswersOneAfterTheOtherAreAllOfIt) {
  History history;
  for (int64_t i = 1; i <= 25; ++i) history.Add(At(i * 1000, 3));
  int64_t since = -1, seen = 0;
  bool more = true;
  while (more) {
    const wire::Value answer = history.Answer(since, 10);
    for (const wire::Value& row : *answer.Find("samples")->As<wire::Value::Array>()) {
      since = *row.As<wire::Value::Array>()->at(0).As<int64_t>();
      EXPECT_EQ(since, ++seen * 1000);
    }
    more = answer.Bool("more");
  }
  EXPECT_EQ(seen, 25);
}

TEST(HistoryTest, AnAnswerOfManyJobsFitsAFrame) {
  History history;
  for (int64_t i = 1; i <= 20; ++i) history.Add(At(i * 1'000'000'000'000, 4000));
  const wire::Value answer = history.Answer(-1, 0);
  EXPECT_TRUE(answer.Bool("more"));
  EXPECT_LT(wire::Pack(answer).size(), size_t{4} << 20);
}

TEST(HistoryTest, WhatWasPackedIsTheSame) {
  History before;
  for (int64_t i = 1; i <= 100; ++i) before.Add(At(i * 1000, i % 3));
  History after;
  ASSERT_TRUE(after.Restore(before.Packed()).ok());
  EXPECT_EQ(after.samples(), before.samples());
  EXPECT_EQ(after.names(), before.names());
}

TEST(HistoryTest, WhatIsNoHistoryChangesNothing) {
  History history;
  history.Add(At(1000));
  const std::string good = history.Packed();
  const Samples kept = history.samples();
  EXPECT_FALSE(history.Restore("").ok());
  EXPECT_FALSE(history.Restore("no history").ok());
  EXPECT_FALSE(history.Restore(wire::Pack(wire::Value::Map{{"format", 99}})).ok());
  for (size_t cut = 0; cut < good.size(); ++cut)
    EXPECT_FALSE(history.Restore(good.substr(0, cut)).ok()) << cut;
  EXPECT_FALSE(history
                   .Restore(wire::Pack(wire::Value::Map{
                       {"format", 1},
                       {"samples", wire::Value::Array{wire::Value(wire::Value::Array{
                                       wire::Value(1), wire::Value(2), wire::Value("jobs")})}},
                       {"jobs", wire::Value::Array{}}}))
                   .ok());
  EXPECT_EQ(history.samples(), kept);
}

TEST(HistoryFileTest, ItIsWrittenSeldomAndWholeAndReadBack) {
  const std::string path = testing::TempDir() + "/history-" + std::to_string(getpid());
  HistoryFile file(path);
  EXPECT_EQ(file.Read(), "");
  History history;
  history.Add(At(1000));
  constexpr int64_t kMinute = 60'000'000'000;
  file.Keep(history, kMinute);
  EXPECT_EQ(file.Read(), history.Packed());
  const std::string first = history.Packed();
  history.Add(At(2000));
  file.Keep(history, kMinute + 1);
  EXPECT_EQ(file.Read(), first) << "30 s are not over";
  file.Keep(history, kMinute + 2, /*now=*/true);
  EXPECT_EQ(file.Read(), history.Packed());
  unlink(path.c_str());
  file.Keep(history, 10 * kMinute);
  EXPECT_EQ(file.Read(), "") << "nothing has changed";
  HistoryFile("/nowhere/history").Keep(history, kMinute);  // logged, no more
}

}  // namespace
}  // namespace tide::coordinator

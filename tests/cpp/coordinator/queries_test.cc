// What people read: ps, status, explain, events, config.
#include "coordinator/explain.h"
#include "cpp/coordinator/fakes.h"
#include "gmock/gmock.h"

namespace tide::coordinator {
namespace {

class QueriesTest : public CoreTest {
 protected:
  std::string Why(const std::string& job) {
    return Ask(wire::Query{.what = "explain", .job = job}).data.Text("text");
  }
};

TEST_F(QueriesTest, PsTakesItsNumbersFromTheDeviceTable) {
  SlotView& slot = device_.Add(3, 10, "train");
  slot.private_bytes = 100, slot.file_resident_bytes = 20, slot.demoted_bytes = 5,
  slot.outside_bytes = 7;
  slot.iterations = 41, slot.last_iteration_ns = 2'000'000, slot.phase = shm::Phase::kRunning,
  slot.lane = 0;
  device_.view.lanes[0].holder = 3;
  const PeerId job = StartJob("train", 10, {.max_bytes = 900, .script = "train.py"});
  Say(job, wire::Report{.resident = 1, .phase = "waiting"});
  const wire::Answer ps = Ask(wire::Query{.what = "ps"});
  const wire::Value& record = ps.data.Find("jobs")->As<wire::Value::Array>()->at(0);
  EXPECT_EQ(record.Text("name"), "train");
  EXPECT_EQ(record.Text("state"), "running");
  EXPECT_EQ(record.Int("resident"), 120);
  EXPECT_EQ(record.Int("demoted"), 5);
  EXPECT_EQ(record.Int("limit"), 900);
  EXPECT_EQ(record.Int("slot"), 3);
  EXPECT_EQ(record.Float("step_ms"), 2);
  EXPECT_TRUE(record.Bool("turn"));
  EXPECT_EQ(record.Text("script"), "train.py");
}

TEST_F(QueriesTest, APauseTakesWhatTheJobPredictsAndItsIterationElseWhatTheLastOneTook) {
  SlotView& slot = device_.Add(3, 10, "train");
  slot.private_bytes = 1 << 30, slot.last_iteration_ns = 2'000'000;
  const PeerId job = StartJob("train", 10);
  const auto predicted = [&] {
    const wire::Answer ps = Ask(wire::Query{.what = "ps"});
    return ps.data.Find("jobs")->As<wire::Value::Array>()->at(0);
  };
  Say(job, wire::Report{.phase = "running"});
  EXPECT_NEAR(predicted().Float("predicted_suspend_ms"), 1002, 1) << "it says nothing";
  wire::Report report{.phase = "running"};
  report.devices = {{0, "H100", 0, int64_t{10} << 30, 0, 0, 300, 310}};
  report.predicted_suspend_ms = 1300, report.predicted_resume_ms = 1310;
  Say(job, report);
  EXPECT_EQ(predicted().Float("predicted_suspend_ms"), 1302);
  const wire::Value record = predicted();
  const wire::Value& device = record.Find("devices")->As<wire::Value::Array>()->at(0);
  EXPECT_EQ(device.Float("predicted_suspend_ms"), 300);
  EXPECT_EQ(device.Float("predicted_resume_ms"), 310);
}

TEST_F(QueriesTest, ASlowedJobIsShownWithItsPaceAndSaysForWhomAndWhatThatOneLoses) {
  SlotView& paper = device_.Add(0, 10, "paper");
  paper.priority = 2, paper.step_usual_ns = 100'000'000, paper.step_took_ns = 102'000'000;
  SlotView& sweep = device_.Add(1, 11, "sweep");
  sweep.priority = 0, sweep.pace = 0.05, sweep.pace_for = 0, sweep.pace_loss = 0.021;
  sweep.pace_law = sched::PaceLawId::kTgs, sweep.phase = shm::Phase::kRunning;
  StartJob("paper", 10);
  StartJob("sweep", 11);
  const wire::Answer ps = Ask(wire::Query{.what = "ps"});
  const auto& jobs = *ps.data.Find("jobs")->As<wire::Value::Array>();
  EXPECT_EQ(jobs.at(0).Float("pace"), 1);
  EXPECT_NEAR(jobs.at(0).Float("slowdown"), 1.02, 1e-9);
  EXPECT_EQ(jobs.at(1).Float("pace"), 0.05);
  EXPECT_TRUE(jobs.at(1).Find("slowdown")->is_null());
  EXPECT_EQ(
      Why("sweep"),
      "sweep: slowed: it may run 5.0 % of the time (law tgs) for paper, which loses 2.1 % of its "
      "speed");
  device_.view.slots[0].step_usual_ns = 0;
  EXPECT_THAT(Why("sweep"), testing::HasSubstr("undisturbed speed is being found out"));
  device_.view.slots[1].pace = 1;
  EXPECT_THAT(Why("sweep"), testing::StartsWith("sweep: running"));
}

TEST_F(QueriesTest, AProcessWithoutTheDaemonIsListedToo) {
  device_.Add(0, 50, "lonely").private_bytes = 9;
  const wire::Answer ps = Ask(wire::Query{.what = "ps"});
  const wire::Value& record = ps.data.Find("jobs")->As<wire::Value::Array>()->at(0);
  EXPECT_EQ(record.Text("name"), "lonely");
  EXPECT_EQ(record.Int("id"), 0);
  EXPECT_FALSE(record.Bool("attached", true));
}

TEST_F(QueriesTest, StepsPerSecondComeFromIterationsOverTime) {
  device_.Add(0, 10, "train").iterations = 0;
  StartJob("train", 10);
  Pass(absl::Seconds(2));
  device_.view.slots[0].iterations = 100;
  Pass(absl::Seconds(2));
  const wire::Answer ps = Ask(wire::Query{.what = "ps"});
  EXPECT_NEAR(ps.data.Find("jobs")->As<wire::Value::Array>()->at(0).Float("steps_per_s"), 50, 0.1);
}

TEST_F(QueriesTest, StatusSumsUpAndListsLanes) {
  device_.Add(0, 10, "train").lane = 0;
  device_.view.held_bytes = 5, device_.view.used_bytes = 7, device_.view.capacity_bytes = 10;
  device_.view.lanes[0].holder = 0, device_.view.lanes[0].handovers = 3;
  StartJob("train", 10);
  const wire::Answer status = Ask(wire::Query{.what = "status"});
  EXPECT_EQ(status.data.Int("pid"), 99);
  EXPECT_EQ(status.data.Int("used"), 5);
  EXPECT_EQ(status.data.Int("charged"), 7);
  const auto* lanes = status.data.Find("lanes")->As<wire::Value::Array>();
  ASSERT_EQ(lanes->size(), 1u) << "an untouched lane is not listed";
  EXPECT_EQ(lanes->at(0).Text("holder"), "train");
  EXPECT_EQ(lanes->at(0).Text("policy"), "fair");
}

TEST_F(QueriesTest, ExplainSaysWhoHoldsTheTurnAndWhoIsAhead) {
  for (auto [slot, pid, name, virtual_ns] :
       {std::tuple{0, 10, "train", 900}, {1, 11, "bert", 0}, {2, 12, "vit", 5}}) {
    SlotView& view = device_.Add(slot, pid, name);
    view.lane = 0, view.ready = true, view.phase = shm::Phase::kWaiting,
    view.virtual_ns = virtual_ns;
    StartJob(name, pid);
  }
  device_.view.slots[1].phase = shm::Phase::kRunning;
  device_.view.slots[1].iterations = 41;
  device_.view.slots[1].last_iteration_ns = 310'000'000;
  device_.view.lanes[0].holder = 1;
  device_.view.lanes[0].granted_ns = clock_.MonotonicNanos();
  EXPECT_EQ(Why("train"),
            "train: waiting for its turn: bert holds lane 0 (iteration 41, usually 310 ms); then "
            "vit before it");
  EXPECT_EQ(Why("vit"),
            "vit: waiting for its turn: bert holds lane 0 (iteration 41, usually 310 ms)");
  clock_.Advance(absl::Seconds(40));
  EXPECT_NE(Why("vit").find("it has held the turn for 40 s, far longer than usual"),
            std::string::npos);
}

TEST_F(QueriesTest, ExplainSaysThatAParkedFollowerWaitsForItsGang) {
  for (auto [slot, pid, name] : {std::tuple{0, 10, "train[0]"}, {1, 11, "train[1]"}}) {
    SlotView& view = device_.Add(slot, pid, name);
    view.lane = 0, view.phase = shm::Phase::kWaiting, view.gang = 7, view.gang_rank = slot;
    StartJob(name, pid);
  }
  device_.view.slots[1].gang_state = shm::GangState::kHeld;
  EXPECT_EQ(Why("train[1]"), "train[1]: waiting for the turn of its gang, which train[0] takes");
  device_.view.slots[1].gang_state = shm::GangState::kParked;
  EXPECT_EQ(Why("train[1]"),
            "train[1]: waiting until all ranks of its gang are between two iterations");
  EXPECT_NE(Why("train[0]").find("waiting for its turn"), std::string::npos);
  device_.view.slots[1].phase = shm::Phase::kPaused;
  EXPECT_EQ(Why("train[0]"), "train[0]: waiting for train[1] of its gang, which is paused");
}

TEST_F(QueriesTest, ExplainSaysWhatIsDemotedAndWhy) {
  SlotView& slot = device_.Add(0, 10, "train");
  slot.phase = shm::Phase::kRunning;
  slot.private_bytes = 700 << 20, slot.demoted_bytes = 412 << 20, slot.budget_bytes_max = 700 << 20;
  StartJob("train", 10);
  EXPECT_EQ(Why("train"),
            "train: running; 412 MiB of 1.09 GiB are demoted because limit 700 MiB is below its "
            "1.09 GiB");
}

TEST_F(QueriesTest, ExplainCoversEveryPhaseOfAJob) {
  StartJob("train", 10);
  EXPECT_NE(Why("train").find("no slot"), std::string::npos);
  SlotView& slot = device_.Add(0, 10, "train");
  EXPECT_NE(Why("train").find("outside of iterations"), std::string::npos);
  slot.phase = shm::Phase::kLoading;
  EXPECT_NE(Why("train").find("waiting for its data"), std::string::npos);
  slot.phase = shm::Phase::kRunning;
  EXPECT_NE(Why("train").find("all its 0 B are resident (limit none)"), std::string::npos);
  slot.reclaim_bytes = 5 << 20;
  EXPECT_NE(Why("train").find("give back 5 MiB"), std::string::npos);
  End("train", {.code = 0});
  EXPECT_NE(Why("train").find("ended with exit code 0"), std::string::npos);
}

TEST_F(QueriesTest, EventsAreAnsweredFromASequenceNumberAndFollowed) {
  StartJob("train", 10);
  StartJob("bert", 11);
  const PeerId cli = Cli();
  Say(cli, wire::Query{.what = "events", .job = "train", .follow = true}, 5);
  const auto answer = Take<wire::Answer>(cli);
  ASSERT_EQ(answer->data.Find("events")->As<wire::Value::Array>()->size(), 1u);
  End("bert", {.code = 0});
  EXPECT_TRUE(edges_->sent[cli].empty()) << "only of the job that was asked for";
  End("train", {.code = 1});
  EXPECT_EQ(edges_->sent[cli].front().request_id, 5u);
  const auto event = Take<wire::Event>(cli);
  EXPECT_EQ(event->kind, "job_ended");
  EXPECT_GT(event->seq, answer->data.Int("last_seq"));
  const auto rest = Ask(wire::Query{.what = "events", .since = event->seq - 1});
  EXPECT_EQ(rest.data.Find("events")->As<wire::Value::Array>()->size(), 1u);
}

TEST_F(QueriesTest, EventsOfJobsAndNeedsAreJournalledWithTheirNumbers) {
  device_.Add(0, 10, "train");
  device_.view.used_bytes = 900 << 20, device_.view.capacity_bytes = 1 << 30;
  const PeerId job = StartJob("train", 10);
  Say(job, wire::Event{.kind = "demoted", .text = "demoted 3 pages", .data = {{"pages", 3}}});
  EXPECT_EQ(LastEvent(), "demoted 3 pages");
  EXPECT_EQ(core_->state().events.back().job, "train");
  Say(job, wire::NeedMemory{.bytes = 200 << 20, .deadline_ms = 2000});
  EXPECT_EQ(LastEvent(), "train needs 200 MiB within 2.0 s; 900 MiB of 1 GiB are in use");
}

TEST_F(QueriesTest, ConfigListsTheOptionsWithTheirOrigin) {
  const wire::Answer config = Ask(wire::Query{.what = "config"});
  EXPECT_FALSE(config.data.Find("options")->As<wire::Value::Array>()->at(0).Text("origin").empty());
  EXPECT_EQ(Ask(wire::Query{.what = "weather"}).error->code, "invalid");
}

TEST_F(QueriesTest, AnAnswerThatIsTooLargeSaysSo) {
  for (int64_t pid = 1000; pid < 1200; ++pid)
    StartJob("train", pid, {.script = std::string(4000, 's')});
  EXPECT_TRUE(Ask(wire::Query{.what = "ps"}).ok);
  const PeerId job = StartJob("talker", 5);
  for (int i = 0; i < 1000; ++i) {
    Say(job, wire::Event{.kind = "k", .text = "t", .data = {{"x", std::string(5000, 'x')}}});
  }
  EXPECT_EQ(Ask(wire::Query{.what = "events"}).error->code, "too_large");
}

}  // namespace
}  // namespace tide::coordinator

// Pause, resume, stop and limits of devices, from command to answer.
#include "cpp/coordinator/fakes.h"

namespace tide::coordinator {
namespace {

class OrdersTest : public CoreTest {
 protected:
  OrdersTest() : job_(StartJob("train", 10)), cli_(Cli()) {}
  void Command(const std::string& what, int64_t timeout_ms = 10'000) {
    Say(cli_, wire::Command{.what = what, .job = "train", .timeout_ms = timeout_ms}, 1);
  }
  void Acknowledge(wire::OrderStatus status, std::string text = "") {
    const auto order = Take<wire::Order>(job_);
    ASSERT_TRUE(order.has_value());
    Say(job_, wire::OrderAck{
                  .order_id = order->order_id, .status = status, .took_ms = 120, .text = text});
  }
  const Job& job() { return *core_->state().FindJob("train"); }
  PeerId job_, cli_;
};

TEST_F(OrdersTest, PauseAndResumeGoRound) {
  Command("pause");
  Acknowledge(wire::OrderStatus::kDone);
  const auto paused = Take<wire::Answer>(cli_);
  EXPECT_EQ(paused->data.Text("status"), "done");
  EXPECT_EQ(paused->data.Text("text"), "train paused by `tide pause` in 120 ms");
  EXPECT_TRUE(job().paused);
  clock_.Advance(absl::Seconds(12));
  const auto why = Ask(wire::Query{.what = "explain", .job = "train"});
  EXPECT_EQ(why.data.Text("text"),
            "train: paused by `tide pause` 12 s ago; `tide resume train` continues it");
  Command("resume");
  Acknowledge(wire::OrderStatus::kDone);
  EXPECT_EQ(Take<wire::Answer>(cli_)->data.Text("text"),
            "train resumed by `tide resume` in 120 ms after 12 s");
  EXPECT_FALSE(job().paused);
}

TEST_F(OrdersTest, HowDeepAPauseIsToBeReachesTheJobAndItsWordsComeBack) {
  Say(cli_, wire::Command{.what = "pause", .job = "train", .deep = true}, 1);
  const auto order = Take<wire::Order>(job_);
  ASSERT_TRUE(order.has_value());
  EXPECT_TRUE(order->deep);
  Say(cli_, wire::Command{.what = "pause", .job = "train"}, 2);  // the same, and content with less
  Say(job_, wire::OrderAck{.order_id = order->order_id,
                           .status = wire::OrderStatus::kDone,
                           .took_ms = 120,
                           .text = "its contexts are away"});
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(Take<wire::Answer>(cli_)->data.Text("text"),
              "train paused by `tide pause` in 120 ms; its contexts are away");
  }
}

TEST_F(OrdersTest, ADeepPauseIsNotMistakenForAnotherOrder) {
  Say(cli_, wire::Command{.what = "resume", .job = "train", .deep = true}, 1);
  EXPECT_EQ(Take<wire::Answer>(cli_)->error->code, "invalid");
  Command("pause");
  EXPECT_FALSE(Take<wire::Order>(job_)->deep);
  Say(cli_, wire::Command{.what = "pause", .job = "train", .deep = true}, 2);
  const auto answer = Take<wire::Answer>(cli_);
  ASSERT_TRUE(answer->error.has_value());
  EXPECT_EQ(answer->error->message, "a pause of train that is not deep is under way");
}

TEST_F(OrdersTest, ALimitOfADeviceIsCarriedOutByTheJobAndLeavesPausesAlone) {
  Say(cli_, wire::Command{.what = "limit_device", .job = "train", .bytes = 1 << 30, .device = 1},
      1);
  const auto order = Take<wire::Order>(job_);
  ASSERT_TRUE(order.has_value());
  EXPECT_EQ(order->kind, wire::OrderKind::kLimitDevice);
  EXPECT_EQ(order->device, 1);
  EXPECT_EQ(order->bytes, 1 << 30);
  Say(job_, wire::OrderAck{.order_id = order->order_id,
                           .status = wire::OrderStatus::kDone,
                           .took_ms = 120,
                           .text = "moved 2 MiB off the device"});
  EXPECT_EQ(Take<wire::Answer>(cli_)->data.Text("text"),
            "limit of train on device 1 is 1 GiB by `tide limit`, in 120 ms; moved 2 MiB off the "
            "device");
  EXPECT_FALSE(job().paused);
}

TEST_F(OrdersTest, ALimitOfADeviceThatTheJobCannotKeepIsAFailureWithItsReason) {
  Say(cli_, wire::Command{.what = "limit_device", .job = "train", .bytes = 1 << 20}, 1);
  Acknowledge(wire::OrderStatus::kFailed, "2 MiB more than 1 MiB are in use");
  const auto answer = Take<wire::Answer>(cli_);
  ASSERT_TRUE(answer->error.has_value());
  EXPECT_EQ(answer->error->message,
            "limit of train was rolled back: 2 MiB more than 1 MiB are in use");
}

TEST_F(OrdersTest, ANewerLimitOfTheSameDeviceOvertakesAndOneOfAnotherGoesBeside) {
  const auto limit = [&](int64_t device, int64_t bytes, uint64_t request) {
    Say(cli_,
        wire::Command{.what = "limit_device", .job = "train", .bytes = bytes, .device = device},
        request);
  };
  limit(0, 1 << 20, 1);
  limit(1, 1 << 20, 2);
  limit(0, 2 << 20, 3);
  EXPECT_EQ(Take<wire::Answer>(cli_)->error->code, "failed") << "the first was overtaken";
  EXPECT_EQ(core_->state().orders.size(), 2u);
  limit(0, -1, 4);
  EXPECT_EQ(Take<wire::Answer>(cli_)->error->code, "invalid");
}

TEST_F(OrdersTest, PausingAPausedJobSaysSoAndDoesNothing) {
  Command("pause");
  Acknowledge(wire::OrderStatus::kDone);
  Take<wire::Answer>(cli_);
  Command("pause");
  EXPECT_EQ(Take<wire::Answer>(cli_)->data.Text("status"), "already_paused");
  EXPECT_FALSE(Take<wire::Order>(job_));
}

TEST_F(OrdersTest, ResumingAJobThatRunsSaysSo) {
  Command("resume");
  EXPECT_EQ(Take<wire::Answer>(cli_)->data.Text("status"), "already_running");
}

TEST_F(OrdersTest, AJobThatIsNotAtABoundaryInTimeRollsBackAndTheAnswerSaysHowLongItsIterationsAre) {
  SlotView& slot = device_.Add(0, 10, "train");
  slot.iterations = 41;
  slot.last_iteration_ns = 310'000'000;
  Command("pause", 2000);
  EXPECT_EQ(core_->state().orders.size(), 1u);
  Acknowledge(wire::OrderStatus::kRolledBack);
  const auto answer = Take<wire::Answer>(cli_);
  EXPECT_EQ(answer->error->code, "timeout");
  EXPECT_EQ(answer->error->message,
            "pause of train was rolled back: not at a boundary within 2.0 s (iteration 41, usually "
            "310 ms)");
  EXPECT_FALSE(job().paused);
}

TEST_F(OrdersTest, AJobThatDoesNotAnswerAtAllIsRolledBackByTheDaemon) {
  Command("pause", 2000);
  const auto order = Take<wire::Order>(job_);
  EXPECT_EQ(order->deadline_ms, 2000);
  Pass(absl::Milliseconds(2900));
  EXPECT_FALSE(Take<wire::Answer>(cli_));
  Pass(absl::Milliseconds(200));
  EXPECT_EQ(Take<wire::Answer>(cli_)->error->code, "timeout");
  const auto back = Take<wire::Order>(job_);
  EXPECT_EQ(back->kind, wire::OrderKind::kResume);
  EXPECT_GT(back->order_id, order->order_id);
  Say(job_, wire::OrderAck{.order_id = order->order_id});  // too late: the order is no more
  EXPECT_FALSE(job().paused);
  Say(job_, wire::OrderAck{.order_id = back->order_id});
  EXPECT_TRUE(core_->state().orders.empty());
}

TEST_F(OrdersTest, TwoWhoPauseAtOnceAreBothAnsweredByOneOrder) {
  const PeerId other = Cli();
  Command("pause");
  Say(other, wire::Command{.what = "pause", .job = "train"}, 9);
  Acknowledge(wire::OrderStatus::kDone);
  EXPECT_TRUE(Take<wire::Answer>(cli_)->ok);
  EXPECT_TRUE(Take<wire::Answer>(other)->ok);
}

TEST_F(OrdersTest, AJobThatCannotSaysWhy) {
  Command("pause");
  Acknowledge(wire::OrderStatus::kFailed, "the spill disk is full: 2 GiB wanted, 1 GiB free");
  EXPECT_EQ(Take<wire::Answer>(cli_)->error->message,
            "pause of train was rolled back: the spill disk is full: 2 GiB wanted, 1 GiB free");
}

TEST_F(OrdersTest, AnOrderForAJobThatIsAwayIsRefusedWithAdvice) {
  core_->Closed(job_);
  Command("pause");
  EXPECT_EQ(Take<wire::Answer>(cli_)->error->code, "unavailable");
}

TEST_F(OrdersTest, APauseSurvivesAKillOfTheDaemon) {
  Command("pause");
  Acknowledge(wire::OrderStatus::kDone);
  Restart();
  EXPECT_TRUE(job().paused);
  StartJob("train", 10, {.job_id = 1, .paused = true});
  EXPECT_TRUE(job().paused);
}

TEST_F(OrdersTest, AResumeReplacesAPauseThatIsUnderWay) {
  Command("pause");
  const auto pause = Take<wire::Order>(job_);
  Command("resume");
  EXPECT_EQ(Take<wire::Answer>(cli_)->error->message,
            "pause of train: `tide resume train` came meanwhile");
  Say(job_, wire::OrderAck{.order_id = pause->order_id});
  EXPECT_FALSE(job().paused) << "what is said late about the pause changes nothing";
  Acknowledge(wire::OrderStatus::kDone);
  EXPECT_TRUE(Take<wire::Answer>(cli_)->ok);
  EXPECT_FALSE(job().paused);
}

TEST_F(OrdersTest, AJobThatPausedItselfSaysSoInItsReport) {
  Say(job_, wire::Report{.phase = "paused", .paused = true});
  EXPECT_TRUE(job().paused);
  EXPECT_EQ(LastEvent(), "train says that it is paused");
  Say(job_, wire::Report{.phase = "running"});
  EXPECT_TRUE(job().paused) << "a report without the field says nothing about it";
  Say(job_, wire::Report{.phase = "running", .paused = false});
  EXPECT_FALSE(job().paused);
}

TEST_F(OrdersTest, AJobThatPausedItselfCanBeResumedFromTheCommandLine) {
  device_.Add(0, 10, "train").phase = shm::Phase::kPaused;
  Command("pause");
  EXPECT_EQ(Take<wire::Answer>(cli_)->data.Text("text"), "train is paused already");
  Command("resume");
  Acknowledge(wire::OrderStatus::kDone);
  EXPECT_EQ(Take<wire::Answer>(cli_)->data.Text("status"), "done");
}

TEST_F(OrdersTest, NumbersOfOrdersAreNotUsedTwiceAfterAKill) {
  Command("pause");
  const int64_t before = Take<wire::Order>(job_)->order_id;
  Restart();
  job_ = StartJob("train", 10, {.job_id = 1});
  cli_ = Cli();
  Command("pause");
  EXPECT_GT(Take<wire::Order>(job_)->order_id, before);
}

TEST_F(OrdersTest, ShutdownAnswersAndStops) {
  EXPECT_EQ(Ask(wire::Command{.what = "shutdown"}).data.Text("text"),
            "tided (pid 99) ends; 1 jobs train on without it");
  EXPECT_TRUE(edges_->stopped);
}

}  // namespace
}  // namespace tide::coordinator

// The session's rules without threads or sockets.
#include "wire/session_machine.h"

#include "gtest/gtest.h"

namespace tide::wire {
namespace {

constexpr int64_t kMs = 1'000'000;

class SessionMachineTest : public testing::Test {
 protected:
  SessionMachineTest()
      : machine_(SessionOptions{.job = {.name = "train", .pid = 1, .start_time = 2, .token = 3}}) {}

  template <typename M>
  std::optional<M> Next(int64_t now_ns = 0) {
    auto frame = machine_.NextFrame(now_ns);
    if (!frame) return std::nullopt;
    auto message = DecodeMessage(*frame);
    EXPECT_TRUE(message.ok());
    const M* wanted = std::get_if<M>(&*message);
    EXPECT_NE(wanted, nullptr) << "got " << FrameKindName(frame->kind);
    return wanted ? std::optional<M>(*wanted) : std::nullopt;
  }
  SessionMachine::Incoming Get(Message message, uint64_t generation = 1) {
    auto incoming = machine_.OnFrame(*EncodeMessage(std::move(message), 0, generation), 0);
    EXPECT_TRUE(incoming.ok()) << incoming.status();
    return *std::move(incoming);
  }
  void Attach() {
    machine_.Connected(0);
    EXPECT_TRUE(Next<Hello>());
    EXPECT_TRUE(Next<Register>());
    Get(Welcome{.job_id = 5, .name = "train-2"});
  }

  SessionMachine machine_;
};

TEST_F(SessionMachineTest, SaysHelloAndRegisterAndThenWaitsForWelcome) {
  machine_.Connected(0);
  machine_.Post(Event{.kind = "x", .text = "x"});
  EXPECT_TRUE(Next<Hello>());
  EXPECT_EQ(Next<Register>()->job_id, 0);
  EXPECT_FALSE(machine_.NextFrame(0));
  EXPECT_TRUE(Get(Welcome{.job_id = 5, .name = "train-2"}).welcome.has_value());
  EXPECT_EQ(machine_.name(), "train-2");
  EXPECT_TRUE(Next<Event>());
}

TEST_F(SessionMachineTest, AttachesAgainUnderItsIdAfterLongerAndLongerPauses) {
  Attach();
  int64_t now_ns = 0, waited_ms = 0;
  for (int64_t expected_ms : {100, 200, 400, 800, 1600, 3200, 5000, 5000}) {
    machine_.Lost(now_ns);
    EXPECT_FALSE(machine_.ShouldConnect(now_ns + expected_ms * kMs - 1)) << waited_ms;
    now_ns += expected_ms * kMs;
    EXPECT_TRUE(machine_.ShouldConnect(now_ns));
  }
  machine_.Connected(now_ns);
  EXPECT_TRUE(Next<Hello>());
  EXPECT_EQ(Next<Register>()->job_id, 5);
}

TEST_F(SessionMachineTest, ReportsMergeToTheNewestAndKeepTheirPace) {
  Attach();
  for (int64_t i = 1; i <= 50; ++i) machine_.Post(Report{.iterations = i});
  EXPECT_EQ(Next<Report>()->iterations, 50);
  machine_.Post(Report{.iterations = 51});
  EXPECT_FALSE(machine_.NextFrame(99 * kMs));
  EXPECT_EQ(machine_.NextDeadlineNs(0), 100 * kMs);
  EXPECT_EQ(Next<Report>(100 * kMs)->iterations, 51);
}

TEST_F(SessionMachineTest, EachRevisionIsHandedOverOnceAndOldOnesAreStale) {
  Attach();
  EXPECT_TRUE(Get(Grant{.revision = 4, .max_bytes = 10}).grant.has_value());
  EXPECT_FALSE(Get(Grant{.revision = 4, .max_bytes = 10}).grant.has_value());
  EXPECT_FALSE(machine_.NextFrame(0)) << "the job has not answered yet";
  machine_.Post(GrantAck{.revision = 4, .moved_bytes = 7});
  EXPECT_EQ(Next<GrantAck>()->moved_bytes, 7);
  Get(Grant{.revision = 4, .max_bytes = 10});
  EXPECT_EQ(Next<GrantAck>()->moved_bytes, 7) << "the acknowledgement is repeated, the work is not";
  EXPECT_FALSE(Get(Grant{.revision = 3}).grant.has_value());
  EXPECT_EQ(Next<GrantAck>()->status, GrantStatus::kStale);
}

TEST_F(SessionMachineTest, TellsItsLimitAndRevisionToADaemonThatLostItsJournal) {
  Attach();
  Get(Grant{.revision = 4, .max_bytes = 10, .guaranteed_bytes = 3});
  machine_.Post(GrantAck{.revision = 4});
  machine_.Lost(0);
  machine_.Connected(0);
  Next<Hello>();
  const auto again = Next<Register>();
  EXPECT_EQ(again->revision, 4);
  EXPECT_EQ(again->max_bytes, 10);
  EXPECT_EQ(again->min_bytes, 3);
}

TEST_F(SessionMachineTest, ARepeatedOrderIsAnsweredAsBeforeAndAnOldOneFails) {
  Attach();
  EXPECT_TRUE(Get(Order{.order_id = 9, .kind = OrderKind::kSuspend}).order.has_value());
  machine_.Post(OrderAck{.order_id = 9, .took_ms = 2});
  EXPECT_EQ(Next<OrderAck>()->took_ms, 2);
  EXPECT_FALSE(Get(Order{.order_id = 9, .kind = OrderKind::kSuspend}).order.has_value());
  EXPECT_EQ(Next<OrderAck>()->took_ms, 2);
  EXPECT_FALSE(Get(Order{.order_id = 8, .kind = OrderKind::kResume}).order.has_value());
  EXPECT_EQ(Next<OrderAck>()->status, OrderStatus::kFailed);
  machine_.Lost(0);
  machine_.Connected(0);
  Next<Hello>();
  EXPECT_TRUE(Next<Register>()->paused);
}

TEST_F(SessionMachineTest, FramesOfAnOlderGenerationAreDropped) {
  Attach();
  EXPECT_TRUE(Get(Grant{.revision = 1}, 7).grant.has_value());
  EXPECT_FALSE(Get(Grant{.revision = 2}, 6).grant.has_value());
}

TEST_F(SessionMachineTest, EventsAreBoundedAndTheOldestGo) {
  for (int i = 0; i < 300; ++i) machine_.Post(Event{.kind = "k", .text = std::to_string(i)});
  EXPECT_EQ(machine_.events_dropped(), 300 - 256);
  Attach();
  EXPECT_EQ(Next<Event>()->text, "44");
}

TEST_F(SessionMachineTest, ByeIsTheLastWord) {
  Attach();
  machine_.Post(Bye{3});
  machine_.Post(Report{.iterations = 1});
  EXPECT_TRUE(Next<Report>());
  EXPECT_EQ(Next<Bye>()->exit_code, 3);
  machine_.Post(Event{.kind = "k", .text = "t"});
  EXPECT_FALSE(machine_.NextFrame(0));
}

TEST_F(SessionMachineTest, ASilentDaemonIsOverdueAfterTwoSeconds) {
  machine_.Connected(0);
  EXPECT_FALSE(machine_.Overdue(2'000 * kMs));
  EXPECT_TRUE(machine_.Overdue(2'001 * kMs));
}

}  // namespace
}  // namespace tide::wire

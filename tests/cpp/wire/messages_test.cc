// Messages round trip; refusals name the field.
#include "wire/messages.h"

#include "gtest/gtest.h"

namespace tide::wire {
namespace {

template <typename M>
M RoundTrip(M message) {
  const auto frame = EncodeMessage(std::move(message), 5, 6);
  EXPECT_TRUE(frame.ok()) << frame.status();
  EXPECT_EQ(frame->request_id, 5u);
  EXPECT_EQ(frame->generation, 6u);
  const auto back = DecodeMessage(*frame);
  EXPECT_TRUE(back.ok()) << back.status();
  return std::get<M>(*back);
}

std::string Refusal(FrameKind kind, Value::Map body) {
  return std::string(DecodeMessage({kind, 0, 0, Pack(Value(std::move(body)))}).status().message());
}

TEST(MessagesTest, RegisterReadsBack) {
  const Register back = RoundTrip(Register{.name = "train",
                                           .pid = 42,
                                           .start_time = 77,
                                           .priority = Priority::kGuaranteed,
                                           .min_bytes = 1,
                                           .max_bytes = 2,
                                           .script = "train.py",
                                           .slot = 3,
                                           .job_id = 9,
                                           .token = 11,
                                           .revision = 4,
                                           .paused = true,
                                           .started = 1.5});
  EXPECT_EQ(back.name, "train");
  EXPECT_EQ(back.priority, Priority::kGuaranteed);
  EXPECT_EQ(back.token, 11);
  EXPECT_TRUE(back.paused);
  EXPECT_EQ(back.started, 1.5);
}

TEST(MessagesTest, AcknowledgementsReadBackWithTheirParts) {
  const GrantAck ack = RoundTrip(GrantAck{.revision = 3,
                                          .status = GrantStatus::kConflict,
                                          .overage_bytes = 10,
                                          .parts = {{"pinned", 4}, {"persistent", 6}},
                                          .text = "no"});
  EXPECT_EQ(ack.status, GrantStatus::kConflict);
  EXPECT_EQ(ack.parts.size(), 2u);
  EXPECT_EQ(RoundTrip(OrderAck{.order_id = 1, .status = OrderStatus::kRolledBack}).status,
            OrderStatus::kRolledBack);
}

TEST(MessagesTest, AnAnswerCarriesItsErrorAndAnyData) {
  const Answer back = RoundTrip(Answer{.ok = false,
                                       .error = AnswerError{"not_found", "no job", "jobs: a"},
                                       .data = Value(Value::Map{{"n", Value::Array{1, 2}}})});
  EXPECT_FALSE(back.ok);
  EXPECT_EQ(back.error->code, "not_found");
  EXPECT_EQ(back.data.Find("n")->As<Value::Array>()->size(), 2u);
  EXPECT_FALSE(RoundTrip(Answer{}).error.has_value());
}

TEST(MessagesTest, AReportCarriesFiguresOfDevicesAndRefusesWhatIsNone) {
  Report report{.phase = "running"};
  EXPECT_TRUE(RoundTrip(report).devices.empty());
  report.devices = {{0, "H100", 5, 4, 3, 2}, {1, "H100", 0, 9, 0, 0}};
  const Report back = RoundTrip(report);
  ASSERT_EQ(back.devices.size(), 2u);
  EXPECT_EQ(back.devices[0].limit, 5);
  EXPECT_EQ(back.devices[0].away, 2);
  EXPECT_EQ(back.devices[1].device, 9);
  report.devices[1].predicted_suspend_ms = 250, report.predicted_resume_ms = 375;
  EXPECT_EQ(RoundTrip(report).devices[1].predicted_suspend_ms, 250);
  EXPECT_EQ(RoundTrip(report).predicted_resume_ms, 375);
  const Value::Map good = {{"iterations", 1}, {"step_ms", 1.0},    {"resident", 0},
                           {"demoted", 0},    {"persistent", 0},   {"scratch_peak", 0},
                           {"outside", 0},    {"phase", "running"}};
  // A job of an older version, which predicts nothing.
  Value::Map older = good;
  older.emplace_back("devices",
                     Value::Array{Value(Value::Map{{"index", 0}, {"device", 4}, {"away", 2}})});
  const auto taken = DecodeMessage({FrameKind::kReport, 0, 0, Pack(Value(std::move(older)))});
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_EQ(std::get<Report>(*taken).predicted_suspend_ms, 0);
  EXPECT_EQ(std::get<Report>(*taken).devices.at(0).predicted_suspend_ms, 0);
  const auto refusal = [&](Value devices) {
    Value::Map body = good;
    body.emplace_back("devices", std::move(devices));
    return Refusal(FrameKind::kReport, std::move(body));
  };
  EXPECT_EQ(refusal(3), "Report.devices: is of type integer, not array");
  EXPECT_EQ(refusal(Value::Array{Value(7)}), "Report.devices: device.index: is missing");
  EXPECT_EQ(refusal(Value::Array(65, Value(Value::Map{{"index", 1}, {"device", 1}}))),
            "Report.devices: has 65 entries, the most is 64");
}

TEST(MessagesTest, OptionalFieldsStayAbsent) {
  EXPECT_FALSE(RoundTrip(Command{.what = "limit"}).bytes.has_value());
  EXPECT_EQ(RoundTrip(Command{.what = "limit", .bytes = 0}).bytes, 0);
}

TEST(MessagesTest, UnknownFieldsAreIgnored) {
  const auto message = DecodeMessage(
      {FrameKind::kBye, 0, 0, Pack(Value(Value::Map{{"exit_code", 3}, {"mood", "fine"}}))});
  EXPECT_EQ(std::get<Bye>(*message).exit_code, 3);
}

TEST(MessagesTest, RefusalsNameTheField) {
  EXPECT_EQ(Refusal(FrameKind::kHello, {{"version", 1}, {"pid", 2}}), "Hello.role: is missing");
  EXPECT_EQ(Refusal(FrameKind::kHello, {{"version", "1"}, {"role", "job"}, {"pid", 2}}),
            "Hello.version: is of type text, not integer");
  EXPECT_EQ(Refusal(FrameKind::kHello, {{"version", 1}, {"role", "king"}, {"pid", 2}}),
            "Hello.role: \"king\" is none of job, cli, node");
  EXPECT_EQ(Refusal(FrameKind::kRegister,
                    {{"name", "a"}, {"pid", 1}, {"start_time", 1}, {"max_bytes", -5}}),
            "Register.max_bytes: is -5, the least is 0");
  EXPECT_EQ(Refusal(FrameKind::kBye, {{"exit_code", 1.5}}),
            "Bye.exit_code: is of type float, not integer");
  EXPECT_EQ(DecodeMessage({FrameKind::kBye, 0, 0, Pack(Value(3))}).status().message(),
            "Bye: body is of type integer, not map");
}

TEST(MessagesTest, AMessageOverItsBoundIsRefusedBeforeItIsSent) {
  const Event event{.kind = "x", .text = std::string(kBodyBytesMax, 'x')};
  EXPECT_TRUE(absl::IsResourceExhausted(EncodeMessage(event).status()));
  Answer answer;
  answer.data = Value(Value::Map{{"blob", std::string(kBodyBytesMax, 'x')}});
  EXPECT_TRUE(EncodeMessage(answer).ok());
}

}  // namespace
}  // namespace tide::wire

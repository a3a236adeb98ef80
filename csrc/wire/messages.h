// The messages of docs/reference/protocol.md as plain structs; bodies travel as MessagePack maps.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "absl/status/statusor.h"
#include "wire/frame.h"
#include "wire/value.h"

namespace tide::wire {

enum class Role { kJob, kCli };
enum class Priority { kOpportunistic, kNormal, kGuaranteed };  // numbers as in the device table
enum class GrantStatus { kApplied, kDeferred, kStale, kConflict };
enum class OrderKind { kSuspend, kResume, kStop };
enum class OrderStatus { kDone, kFailed, kRolledBack };

/// The word on the wire: "guaranteed", "applied", "rolled_back", ...
absl::string_view Word(Role value);
absl::string_view Word(Priority value);
absl::string_view Word(GrantStatus value);
absl::string_view Word(OrderKind value);
absl::string_view Word(OrderStatus value);
/// Inverse of Word; InvalidArgument names the words that exist.
absl::StatusOr<Priority> ParsePriority(absl::string_view word);

struct Hello {
  int64_t version = kProtocolVersion;
  Role role = Role::kJob;
  int64_t pid = 0;
};
struct Welcome {
  int64_t version = kProtocolVersion;
  int64_t job_id = 0;
  std::string name;
  int64_t generation = 0;
  int64_t daemon_pid = 0;
};
struct Register {
  std::string name;
  int64_t pid = 0;
  int64_t start_time = 0;
  Priority priority = Priority::kNormal;
  int64_t min_bytes = 0;  // guaranteed
  int64_t max_bytes = 0;  // limit; 0: none
  std::string script;
  int64_t slot = -1;
  int64_t job_id = 0;  // re-attach
  int64_t token = 0;   // drawn once a session
  int64_t revision = 0;
  bool paused = false;
  double started = 0;
};
struct Report {
  int64_t slot = -1;
  int64_t iterations = 0;
  double step_ms = 0;
  int64_t resident = 0, demoted = 0, persistent = 0, scratch_peak = 0, outside = 0;
  std::string phase;
  std::optional<bool> paused;  // the session fills it in
};
struct Event {
  int64_t seq = 0;
  double time = 0;  // Unix seconds
  std::string kind;
  std::string job;
  std::string text;
  Value::Map data;
};
struct GrantAck {
  int64_t revision = 0;
  GrantStatus status = GrantStatus::kApplied;
  int64_t overage_bytes = 0, moved_bytes = 0;
  double took_ms = 0;
  Value::Map parts;
  std::string text;
  // What the job holds to after this acknowledgement; the session fills them in.
  int64_t max_bytes = 0, guaranteed_bytes = 0;
};
struct OrderAck {
  int64_t order_id = 0;
  OrderStatus status = OrderStatus::kDone;
  double took_ms = 0;
  std::string text;
};
struct NeedMemory {
  int64_t bytes = 0;
  int64_t deadline_ms = 0;
};
struct Bye {
  int64_t exit_code = 0;
};

inline constexpr int64_t kKeepLane = -2;
struct Grant {
  int64_t revision = 0;
  int64_t max_bytes = 0;  // 0: no limit
  int64_t guaranteed_bytes = 0;
  double weight = 1;
  int64_t lane = kKeepLane;
  std::string policy;  // empty: keep
  Priority priority = Priority::kNormal;
};
struct Order {
  int64_t order_id = 0;
  OrderKind kind = OrderKind::kSuspend;
  int64_t deadline_ms = 0;
};
struct Query {
  std::string what;
  std::string job;
  int64_t since = -1;
  bool follow = false;
  int64_t count = 0;
};
struct Command {
  std::string what;
  std::string job;
  std::optional<int64_t> bytes;
  int64_t lane = 0;
  std::string policy;
  std::string priority;
  std::optional<double> weight;
  int64_t timeout_ms = 10'000;
  std::string by;
};
struct AnswerError {
  std::string code;
  std::string message;
  std::string advice;
};
struct Answer {
  bool ok = true;
  std::optional<AnswerError> error;
  Value data = Value(Value::Map());
};

using Message = std::variant<Hello, Welcome, Register, Report, Event, GrantAck, OrderAck,
                             NeedMemory, Bye, Grant, Order, Query, Command, Answer>;

/// The frame kind of a message.
FrameKind KindOf(const Message& message);
/// Body checked field by field. Errors: InvalidArgument "KIND.FIELD: ..." for a body that is no
/// map, a missing required field, a wrong type, an unknown word, a number out of range.
absl::StatusOr<Message> DecodeMessage(const Frame& frame);
/// The frame of a message. Errors: a body over the bound of its kind.
absl::StatusOr<Frame> EncodeMessage(Message message, uint64_t request_id = 0,
                                    uint64_t generation = 0);
/// The map of an event, as it also stands in the answers to queries.
Value::Map EventRecord(const Event& event);

}  // namespace tide::wire

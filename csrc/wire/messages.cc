// The fields of each message, written once for both directions.
#include "wire/messages.h"

#include <array>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"

namespace tide::wire {
namespace {

template <typename E>
struct Words;
template <>
struct Words<Role> {
  static constexpr std::array<absl::string_view, 3> kAll = {"job", "cli", "node"};
};
template <>
struct Words<Priority> {
  static constexpr std::array<absl::string_view, 3> kAll = {"opportunistic", "normal",
                                                            "guaranteed"};
};
template <>
struct Words<GrantStatus> {
  static constexpr std::array<absl::string_view, 4> kAll = {"applied", "deferred", "stale",
                                                            "conflict"};
};
template <>
struct Words<OrderKind> {
  static constexpr std::array<absl::string_view, 5> kAll = {"suspend", "resume", "stop",
                                                            "limit_device", "resize"};
};
template <>
struct Words<OrderStatus> {
  static constexpr std::array<absl::string_view, 3> kAll = {"done", "failed", "rolled_back"};
};

template <>
struct Words<Tier> {
  static constexpr std::array<absl::string_view, 3> kAll = {"opportunistic", "standard",
                                                            "guaranteed"};
};
template <>
struct Words<AllocationState> {
  static constexpr std::array<absl::string_view, 3> kAll = {"run", "hold", "end"};
};
template <>
struct Words<MoveStep> {
  static constexpr std::array<absl::string_view, 4> kAll = {"ask", "left", "stays", "failed"};
};

template <typename E>
std::string ParseWord(absl::string_view word, E& out) {
  for (size_t i = 0; i < Words<E>::kAll.size(); ++i) {
    if (Words<E>::kAll[i] != word) continue;
    out = static_cast<E>(i);
    return "";
  }
  return absl::StrCat("\"", Utf8Prefix(word, 40), "\" is none of ",
                      absl::StrJoin(Words<E>::kAll, ", "));
}

constexpr size_t kDevicesMax = 64;  // of one job on one machine

enum class Need { kOptional, kRequired };
constexpr Need kRequired = Need::kRequired;

/// Fills a message from a map; keeps the first error.
class Reader {
 public:
  Reader(absl::string_view kind, const Value& body) : kind_(kind), body_(body) {}

  template <typename T>
  void operator()(const char* name, T& field, Need need = Need::kOptional) {
    if (!status_.ok()) return;
    const Value* value = body_.Find(name);
    if (value == nullptr || value->is_null()) {
      if (need == Need::kRequired) Fail(name, "is missing");
      return;
    }
    const std::string error = Convert(*value, field);
    if (!error.empty()) Fail(name, error);
  }
  /// For an integer that may not be below `least`.
  void AtLeast(const char* name, int64_t value, int64_t least) {
    if (status_.ok() && value < least)
      Fail(name, absl::StrCat("is ", value, ", the least is ", least));
  }
  absl::Status status() const { return status_; }

 private:
  void Fail(const char* name, absl::string_view why) {
    status_ = absl::InvalidArgumentError(absl::StrCat(kind_, ".", name, ": ", why));
  }
  template <typename T>
  static std::string Exact(const Value& value, T& field, absl::string_view wanted) {
    const T* held = value.As<T>();
    if (held == nullptr) return absl::StrCat("is of type ", value.type_name(), ", not ", wanted);
    field = *held;
    return "";
  }
  static std::string Convert(const Value& value, int64_t& field) {
    return Exact(value, field, "integer");
  }
  static std::string Convert(const Value& value, bool& field) {
    return Exact(value, field, "bool");
  }
  static std::string Convert(const Value& value, std::string& field) {
    return Exact(value, field, "text");
  }
  static std::string Convert(const Value& value, Value::Map& field) {
    return Exact(value, field, "map");
  }
  static std::string Convert(const Value& value, Value& field) {
    field = value;
    return "";
  }
  static std::string Convert(const Value& value, double& field) {
    if (const int64_t* integer = value.As<int64_t>()) {
      field = static_cast<double>(*integer);
      return "";
    }
    return Exact(value, field, "float");
  }
  template <typename T>
  static std::string Convert(const Value& value, std::optional<T>& field) {
    T inner{};
    std::string error = Convert(value, inner);
    if (error.empty()) field = std::move(inner);
    return error;
  }
  template <typename T>
  static std::string Convert(const Value& value, std::vector<T>& field) {
    const auto* items = value.As<Value::Array>();
    if (items == nullptr) return absl::StrCat("is of type ", value.type_name(), ", not array");
    if (items->size() > kDevicesMax) {
      return absl::StrCat("has ", items->size(), " entries, the most is ", kDevicesMax);
    }
    for (const Value& item : *items) {
      Reader reader("device", item);
      Fields(reader, field.emplace_back());
      if (!reader.status().ok()) return std::string(reader.status().message());
    }
    return "";
  }
  static std::string Convert(const Value& value, AnswerError& field) {
    field = {value.Text("code"), value.Text("message"), value.Text("advice")};
    return value.As<Value::Map>() ? ""
                                  : absl::StrCat("is of type ", value.type_name(), ", not map");
  }
  template <typename E>
  requires std::is_enum_v<E>
  static std::string Convert(const Value& value, E& field) {
    std::string word;
    const std::string error = Exact(value, word, "text");
    return error.empty() ? ParseWord(word, field) : error;
  }

  const absl::string_view kind_;
  const Value& body_;
  absl::Status status_;
};

/// Lays a message out as a map; absent optionals are left out.
class Writer {
 public:
  template <typename T>
  void operator()(const char* name, T& field, Need = Need::kOptional) {
    if constexpr (std::is_enum_v<T>) {
      map_.emplace_back(name, Value(Word(field)));
    } else {
      map_.emplace_back(name, Value(std::move(field)));
    }
  }
  template <typename T>
  void operator()(const char* name, std::optional<T>& field, Need = Need::kOptional) {
    if (field) (*this)(name, *field);
  }
  void operator()(const char* name, std::vector<DeviceReport>& devices, Need = Need::kOptional) {
    if (!devices.empty()) map_.emplace_back(name, Value(DeviceRecords(devices)));
  }
  void operator()(const char* name, AnswerError& error, Need = Need::kOptional) {
    map_.emplace_back(name, Value(Value::Map{{"code", std::move(error.code)},
                                             {"message", std::move(error.message)},
                                             {"advice", std::move(error.advice)}}));
  }
  void AtLeast(const char*, int64_t, int64_t) {}
  Value::Map take() { return std::move(map_); }

 private:
  Value::Map map_;
};

template <typename V>
void Fields(V& v, Hello& m) {
  v("version", m.version, kRequired), v("role", m.role, kRequired), v("pid", m.pid, kRequired);
}
template <typename V>
void Fields(V& v, Welcome& m) {
  v("version", m.version, kRequired), v("job_id", m.job_id), v("name", m.name);
  v("generation", m.generation, kRequired), v("daemon_pid", m.daemon_pid);
}
template <typename V>
void Fields(V& v, Register& m) {
  v("name", m.name, kRequired), v("pid", m.pid, kRequired),
      v("start_time", m.start_time, kRequired);
  v("priority", m.priority), v("min_bytes", m.min_bytes), v("max_bytes", m.max_bytes);
  v("script", m.script), v("slot", m.slot), v("job_id", m.job_id), v("token", m.token);
  v("revision", m.revision), v("paused", m.paused), v("started", m.started);
  v.AtLeast("pid", m.pid, 1), v.AtLeast("min_bytes", m.min_bytes, 0);
  v.AtLeast("max_bytes", m.max_bytes, 0), v.AtLeast("revision", m.revision, 0);
}
template <typename V>
void Fields(V& v, DeviceReport& m) {
  v("index", m.index, kRequired), v("name", m.name), v("limit", m.limit);
  v("device", m.device, kRequired), v("host_mapped", m.host_mapped), v("away", m.away);
  v("predicted_suspend_ms", m.predicted_suspend_ms);
  v("predicted_resume_ms", m.predicted_resume_ms);
  v.AtLeast("index", m.index, 0);
}
template <typename V>
void Fields(V& v, Report& m) {
  v("slot", m.slot), v("iterations", m.iterations, kRequired), v("step_ms", m.step_ms, kRequired);
  v("resident", m.resident, kRequired), v("demoted", m.demoted, kRequired);
  v("persistent", m.persistent, kRequired), v("scratch_peak", m.scratch_peak, kRequired);
  v("outside", m.outside, kRequired), v("phase", m.phase, kRequired);
  v("paused", m.paused), v("revision", m.revision), v("max_bytes", m.max_bytes);
  v("guaranteed_bytes", m.guaranteed_bytes), v("key", m.key);
  v("devices", m.devices), v("processes", m.processes);
  v("processes_low", m.processes_low), v("processes_high", m.processes_high);
  v("predicted_suspend_ms", m.predicted_suspend_ms);
  v("predicted_resume_ms", m.predicted_resume_ms);
  v.AtLeast("processes", m.processes, 0), v.AtLeast("processes_low", m.processes_low, 0);
}
template <typename V>
void Fields(V& v, Event& m) {
  v("seq", m.seq), v("time", m.time), v("kind", m.kind, kRequired), v("job", m.job);
  v("text", m.text, kRequired), v("data", m.data);
}
template <typename V>
void Fields(V& v, GrantAck& m) {
  v("revision", m.revision, kRequired), v("status", m.status, kRequired);
  v("overage_bytes", m.overage_bytes), v("moved_bytes", m.moved_bytes), v("took_ms", m.took_ms);
  v("parts", m.parts), v("text", m.text), v("max_bytes", m.max_bytes);
  v("guaranteed_bytes", m.guaranteed_bytes);
}
template <typename V>
void Fields(V& v, OrderAck& m) {
  v("order_id", m.order_id, kRequired), v("status", m.status, kRequired), v("took_ms", m.took_ms);
  v("text", m.text);
}
template <typename V>
void Fields(V& v, NeedMemory& m) {
  v("bytes", m.bytes, kRequired), v("deadline_ms", m.deadline_ms);
  v.AtLeast("bytes", m.bytes, 0);
}
template <typename V>
void Fields(V& v, Bye& m) {
  v("exit_code", m.exit_code);
}
template <typename V>
void Fields(V& v, Grant& m) {
  v("revision", m.revision, kRequired), v("max_bytes", m.max_bytes, kRequired);
  v("guaranteed_bytes", m.guaranteed_bytes, kRequired), v("weight", m.weight, kRequired);
  v("lane", m.lane), v("policy", m.policy), v("priority", m.priority);
}
template <typename V>
void Fields(V& v, Order& m) {
  v("order_id", m.order_id, kRequired), v("kind", m.kind, kRequired);
  v("deadline_ms", m.deadline_ms, kRequired), v("device", m.device), v("bytes", m.bytes);
  v("processes", m.processes), v("deep", m.deep);
}
template <typename V>
void Fields(V& v, Query& m) {
  v("what", m.what, kRequired), v("job", m.job), v("since", m.since), v("follow", m.follow);
  v("count", m.count);
}
template <typename V>
void Fields(V& v, Command& m) {
  v("what", m.what, kRequired), v("job", m.job), v("bytes", m.bytes), v("lane", m.lane);
  v("policy", m.policy), v("priority", m.priority), v("weight", m.weight);
  v("timeout_ms", m.timeout_ms), v("by", m.by), v("device", m.device);
  v("deep", m.deep);
}
template <typename V>
void Fields(V& v, Answer& m) {
  v("ok", m.ok, kRequired), v("error", m.error), v("data", m.data);
}
template <typename V>
void Fields(V& v, Challenge& m) {
  v("version", m.version, kRequired), v("nonce", m.nonce, kRequired);
}
template <typename V>
void Fields(V& v, Proof& m) {
  v("nonce", m.nonce), v("mac", m.mac, kRequired);
}
template <typename V>
void Fields(V& v, Join& m) {
  v("node", m.node, kRequired), v("devices", m.devices, kRequired);
  v("incarnation", m.incarnation, kRequired), v("held", m.held), v("memory_gib", m.memory_gib);
  v.AtLeast("devices", m.devices, 1);
}
template <typename V>
void Fields(V& v, Lease& m) {
  v("seq", m.seq, kRequired), v("lease_ms", m.lease_ms);
}
template <typename V>
void Fields(V& v, Submit& m) {
  v("key", m.key, kRequired), v("user", m.user), v("group", m.group);
  v("devices", m.devices, kRequired), v("estimate_s", m.estimate_s), v("deadline_s", m.deadline_s);
  v("tier", m.tier), v("devices_max", m.devices_max), v("preview", m.preview);
  v("movable", m.movable), v("profile", m.profile);
  v.AtLeast("devices", m.devices, 1), v.AtLeast("devices_max", m.devices_max, 0);
}
template <typename V>
void Fields(V& v, Finish& m) {
  v("key", m.key, kRequired), v("exit_code", m.exit_code);
}
template <typename V>
void Fields(V& v, Allocation& m) {
  v("key", m.key, kRequired), v("revision", m.revision, kRequired);
  v("state", m.state, kRequired), v("devices", m.devices, kRequired);
  v("workers", m.workers), v("nodes", m.nodes), v("reason", m.reason);
  v("holding", m.holding), v("pace", m.pace);
}
template <typename V>
void Fields(V& v, AllocationAck& m) {
  v("key", m.key, kRequired), v("revision", m.revision, kRequired);
}
template <typename V>
void Fields(V& v, Advance& m) {
  v("now_s", m.now_s, kRequired), v("decide", m.decide);
}
template <typename V>
void Fields(V& v, Reserve& m) {
  v("name", m.name, kRequired), v("user", m.user), v("devices", m.devices, kRequired);
  v("from_s", m.from_s), v("for_s", m.for_s);
  v.AtLeast("devices", m.devices, 0);
}
template <typename V>
void Fields(V& v, Move& m) {
  v("key", m.key, kRequired), v("step", m.step), v("to", m.to), v("revision", m.revision);
  v("reason", m.reason);
}
template <typename V>
void Fields(V& v, Drain& m) {
  v("node", m.node, kRequired), v("undo", m.undo);
}

template <typename M>
absl::StatusOr<Message> Read(absl::string_view kind, const Value& body) {
  M message{};
  Reader reader(kind, body);
  Fields(reader, message);
  TIDE_RETURN_IF_ERROR(reader.status());
  return Message(std::move(message));
}

/// Tries the alternatives of Message until the one whose number is the frame's kind.
template <size_t kIndex = 0>
absl::StatusOr<Message> ReadKind(FrameKind kind, const Value& body) {
  if constexpr (kIndex < std::variant_size_v<Message>) {
    if (static_cast<size_t>(kind) == kIndex + 1) {
      return Read<std::variant_alternative_t<kIndex, Message>>(FrameKindName(kind), body);
    }
    return ReadKind<kIndex + 1>(kind, body);
  } else {
    return absl::InvalidArgumentError(absl::StrCat("unknown_kind: ", static_cast<int>(kind)));
  }
}

}  // namespace

absl::string_view Word(Role value) { return Words<Role>::kAll[static_cast<size_t>(value)]; }
absl::string_view Word(Priority value) { return Words<Priority>::kAll[static_cast<size_t>(value)]; }
absl::string_view Word(GrantStatus value) {
  return Words<GrantStatus>::kAll[static_cast<size_t>(value)];
}
absl::string_view Word(OrderKind value) {
  return Words<OrderKind>::kAll[static_cast<size_t>(value)];
}
absl::string_view Word(Tier value) { return Words<Tier>::kAll[static_cast<size_t>(value)]; }
absl::string_view Word(AllocationState value) {
  return Words<AllocationState>::kAll[static_cast<size_t>(value)];
}
absl::string_view Word(MoveStep value) { return Words<MoveStep>::kAll[static_cast<size_t>(value)]; }
absl::string_view Word(OrderStatus value) {
  return Words<OrderStatus>::kAll[static_cast<size_t>(value)];
}

absl::StatusOr<Priority> ParsePriority(absl::string_view word) {
  Priority priority{};
  const std::string error = ParseWord(word, priority);
  if (!error.empty()) return absl::InvalidArgumentError(absl::StrCat("priority ", error));
  return priority;
}

FrameKind KindOf(const Message& message) { return static_cast<FrameKind>(message.index() + 1); }

absl::StatusOr<Message> DecodeMessage(const Frame& frame) {
  auto body = Unpack(frame.body);
  const absl::string_view kind = FrameKindName(frame.kind);
  if (!body.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(kind, ": ", body.status().message()));
  }
  if (body->As<Value::Map>() == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(kind, ": body is of type ", body->type_name(), ", not map"));
  }
  return ReadKind(frame.kind, *body);
}

absl::StatusOr<Frame> EncodeMessage(Message message, uint64_t request_id, uint64_t generation) {
  Frame frame{KindOf(message), request_id, generation, ""};
  Writer writer;
  std::visit([&](auto& m) { Fields(writer, m); }, message);
  frame.body = Pack(Value(writer.take()));
  const size_t bound = frame.kind == FrameKind::kAnswer ? kSnapshotBytesMax : kBodyBytesMax;
  if (frame.body.size() > bound) {
    return absl::ResourceExhaustedError(absl::StrCat("too_large: a ", FrameKindName(frame.kind),
                                                     " body of ", frame.body.size(),
                                                     " bytes is over the bound of ", bound));
  }
  return frame;
}

Value::Array DeviceRecords(const std::vector<DeviceReport>& devices) {
  Value::Array records;
  for (DeviceReport device : devices) {
    Writer writer;
    Fields(writer, device);
    records.emplace_back(writer.take());
  }
  return records;
}

Value::Map EventRecord(const Event& event) {
  Event copy = event;
  Writer writer;
  Fields(writer, copy);
  return writer.take();
}

}  // namespace tide::wire

// Inputs of the engine as values for the journal.
#include "coordinator/cluster_types.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/status.h"

namespace tide::coordinator {
namespace {

void SpecToValue(const JobSpec& spec, wire::Value::Map& map) {
  map.emplace_back("key", spec.key);
  if (!spec.user.empty()) map.emplace_back("user", spec.user);
  if (!spec.group.empty()) map.emplace_back("group", spec.group);
  map.emplace_back("devices", spec.devices);
  if (spec.devices_max != 0) map.emplace_back("devices_max", spec.devices_max);
  map.emplace_back("estimate_s", spec.estimate_s);
  if (spec.deadline_s != sched::kNever) map.emplace_back("deadline_s", spec.deadline_s);
  map.emplace_back("tier", static_cast<int>(spec.tier));
  if (spec.movable) map.emplace_back("movable", true);
  if (spec.profile != nullptr) map.emplace_back("profile", ProfileToValue(*spec.profile));
}

JobSpec SpecFromValue(const wire::Value& value) {
  JobSpec spec;
  spec.key = value.Text("key");
  spec.user = value.Text("user");
  spec.group = value.Text("group");
  spec.devices = static_cast<int>(value.Int("devices", 1));
  spec.devices_max = static_cast<int>(value.Int("devices_max"));
  spec.estimate_s = value.Float("estimate_s");
  spec.deadline_s = value.Float("deadline_s", sched::kNever);
  spec.tier = static_cast<sched::JobTier>(value.Int("tier", 1));
  spec.movable = value.Bool("movable", false);
  if (const wire::Value* profile = value.Find("profile"); profile != nullptr) {
    if (auto read = ProfileFromValue(*profile); read.ok())
      spec.profile = std::make_shared<const sched::JobProfile>(*std::move(read));
  }
  return spec;
}

constexpr size_t kSizesMax = 4096;  // of a curve

absl::Status ReadNumbers(const wire::Value& value, const char* key, size_t most,
                         std::vector<double>& out) {
  const wire::Value* list = value.Find(key);
  if (list == nullptr) return absl::OkStatus();
  const auto* numbers = list->As<wire::Value::Array>();
  if (numbers == nullptr || numbers->size() > most)
    return absl::InvalidArgumentError(
        absl::StrCat("profile.", key, " is a list of at most ", most));
  for (const wire::Value& number : *numbers) {
    const double* real = number.As<double>();
    const int64_t* whole = number.As<int64_t>();
    const double read = real != nullptr    ? *real
                        : whole != nullptr ? static_cast<double>(*whole)
                                           : -1;
    if (!(read >= 0) || read == sched::kNever)
      return absl::InvalidArgumentError(absl::StrCat("profile.", key, " has numbers from 0"));
    out.push_back(read);
  }
  return absl::OkStatus();
}

wire::Value Numbers(absl::Span<const double> numbers) {
  return wire::Value(wire::Value::Array(numbers.begin(), numbers.end()));
}

}  // namespace

absl::StatusOr<sched::JobProfile> ProfileFromValue(const wire::Value& value) {
  sched::JobProfile profile;
  if (value.As<wire::Value::Map>() == nullptr)
    return absl::InvalidArgumentError("a profile is a map");
  TIDE_RETURN_IF_ERROR(ReadNumbers(value, "speed", kSizesMax, profile.speed));
  std::vector<double> stages;
  TIDE_RETURN_IF_ERROR(ReadNumbers(value, "stage_s", sched::kStages, stages));
  std::copy(stages.begin(), stages.end(), profile.stage_s.begin());
  profile.busy = value.Float("busy", 1);
  profile.memory_gib = value.Float("memory_gib");
  profile.scratch_gib = value.Float("scratch_gib");
  if (!(profile.busy > 0 && profile.busy <= 1))
    return absl::InvalidArgumentError("profile.busy is a share of the time, above 0 and at most 1");
  for (const double gib : {profile.memory_gib, profile.scratch_gib}) {
    if (!(gib >= 0) || gib == sched::kNever)
      return absl::InvalidArgumentError("profile.memory_gib and scratch_gib are GiB from 0");
  }
  return profile;
}

wire::Value ProfileToValue(const sched::JobProfile& profile) {
  wire::Value::Map map = {{"busy", profile.busy},
                          {"memory_gib", profile.memory_gib},
                          {"scratch_gib", profile.scratch_gib}};
  if (!profile.speed.empty()) map.emplace_back("speed", Numbers(profile.speed));
  if (profile.has_stages()) map.emplace_back("stage_s", Numbers(profile.stage_s));
  return wire::Value(std::move(map));
}

wire::Value::Map ClusterInputToValue(const ClusterInput& input) {
  wire::Value::Map map = {{"kind", static_cast<int>(input.kind)}, {"now_s", input.now_s}};
  switch (input.kind) {
    case ClusterInputKind::kSubmit:
      SpecToValue(input.spec, map);
      break;
    case ClusterInputKind::kFinish:
      map.emplace_back("key", input.spec.key);
      break;
    case ClusterInputKind::kNode:
      map.emplace_back("node", input.node);
      map.emplace_back("devices", input.devices);
      map.emplace_back("works", input.works);
      if (input.memory_gib > 0) map.emplace_back("memory_gib", input.memory_gib);
      break;
    case ClusterInputKind::kReserve:
      map.emplace_back("key", input.reservation.name);
      map.emplace_back("user", input.reservation.user);
      map.emplace_back("devices", input.reservation.devices);
      map.emplace_back("from_s", input.reservation.from_s);
      map.emplace_back("to_s", input.reservation.to_s);
      break;
    case ClusterInputKind::kMove:
      map.emplace_back("key", input.spec.key);
      map.emplace_back("step", static_cast<int>(input.step));
      if (!input.node.empty()) map.emplace_back("node", input.node);
      if (input.revision != 0) map.emplace_back("revision", input.revision);
      map.emplace_back("reason", input.reason);
      break;
    case ClusterInputKind::kDrain:
      map.emplace_back("node", input.node);
      map.emplace_back("drains", input.drains);
      break;
    case ClusterInputKind::kDecide:
      break;
  }
  return map;
}

absl::StatusOr<ClusterInput> ClusterInputFromValue(const wire::Value& value) {
  const int64_t kind = value.Int("kind", -1);
  if (kind < 0 || kind > static_cast<int64_t>(ClusterInputKind::kDrain)) {
    return absl::DataLossError(absl::StrCat("the journal has a cluster input of kind ", kind));
  }
  ClusterInput input;
  input.kind = static_cast<ClusterInputKind>(kind);
  input.now_s = value.Float("now_s");
  input.spec = SpecFromValue(value);
  input.node = value.Text("node");
  input.devices = static_cast<int>(value.Int("devices"));
  input.works = value.Bool("works", true);
  input.memory_gib = value.Float("memory_gib");
  input.reservation = {.name = value.Text("key"),
                       .user = value.Text("user"),
                       .devices = input.devices,
                       .from_s = value.Float("from_s"),
                       .to_s = value.Float("to_s")};
  const int64_t step = value.Int("step");
  if (step < 0 || step > static_cast<int64_t>(wire::MoveStep::kFailed))
    return absl::DataLossError(absl::StrCat("the journal has a step of a move ", step));
  input.step = static_cast<wire::MoveStep>(step);
  input.revision = value.Int("revision");
  input.reason = value.Text("reason");
  input.drains = value.Bool("drains", true);
  return input;
}

}  // namespace tide::coordinator

// Inputs of the engine as values for the journal.
#include "coordinator/cluster_types.h"

#include "absl/strings/str_cat.h"

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
  return spec;
}

}  // namespace

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

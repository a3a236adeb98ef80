// Jobs and lanes as maps, from the daemon's state and the device table together.
#include "coordinator/records.h"

#include <algorithm>

#include "coordinator/explain.h"

#ifndef TIDE_VERSION
#define TIDE_VERSION "0.1.0"
#endif

namespace tide::coordinator {
namespace {

// A suspension of a job that predicts none, which was never measured: one copy of what is resident
// to the file tier at 1 GiB/s, the slowest of the disks measured, after the iteration that runs has
// ended.
constexpr double kSuspendBytesPerMs = 1073741.824;
constexpr size_t kRecordsMax = 6000;  // keeps an answer below 4 MiB

/// After the iteration that runs: what the job itself says, from measured moves of what it has now;
/// a job that says nothing takes what it took last.
double PredictedSuspendMs(const Job& job, const SlotView* slot) {
  if (slot == nullptr) return job.suspend_took_ms;
  const double boundary_ms = slot->last_iteration_ns / 1e6;
  if (job.report && job.report->predicted_suspend_ms > 0)
    return job.report->predicted_suspend_ms + boundary_ms;
  if (job.suspend_took_ms > 0) return job.suspend_took_ms + boundary_ms;
  return static_cast<double>(slot->private_bytes) / kSuspendBytesPerMs + boundary_ms;
}

void AppendExit(wire::Value::Map& record, const Exit& exit) {
  wire::Value::Map map = {{"time", exit.time}};
  if (exit.code) map.emplace_back("code", *exit.code);
  if (exit.signal) map.emplace_back("signal", *exit.signal);
  record.emplace_back("exit", std::move(map));
}

void AppendLedger(wire::Value::Map& record, const SlotView* slot, const wire::Report* report) {
  const auto add = [&](const char* name, int64_t of_slot, int64_t of_report) {
    record.emplace_back(name, slot != nullptr ? of_slot : report != nullptr ? of_report : 0);
  };
  const SlotView none;
  const wire::Report silent;
  const SlotView& s = slot != nullptr ? *slot : none;
  const wire::Report& r = report != nullptr ? *report : silent;
  add("resident", s.resident_bytes(), r.resident);
  add("demoted", s.demoted_bytes, r.demoted);
  add("outside", s.outside_bytes, r.outside);
  add("persistent", s.persistent_bytes, r.persistent);
  add("scratch_peak", s.scratch_peak_bytes, r.scratch_peak);
  add("peak", s.peak_bytes, r.resident + r.outside);
  add("iterations", s.iterations, r.iterations);
}

/// What an iteration of a guaranteed job takes over what it takes undisturbed; null: not known.
wire::Value Slowdown(const SlotView* slot) {
  if (slot == nullptr || slot->priority != 2 || slot->step_usual_ns <= 0) return {};
  return static_cast<double>(slot->step_took_ns) / static_cast<double>(slot->step_usual_ns);
}

wire::Value::Map JobRecord(const Job& job, const DeviceView& view, const SlotView* slot) {
  const LaneView* lane = slot != nullptr ? view.Lane(slot->lane) : nullptr;
  const bool stands = !job.live() || job.paused;
  wire::Value::Map record = {{"id", job.id.value()},
                             {"name", job.name},
                             {"pid", job.pid},
                             {"state", StateWord(job, slot)},
                             {"attached", job.attached()},
                             {"priority", wire::Word(job.wanted.priority)},
                             {"weight", job.wanted.weight},
                             {"limit", job.wanted.limit_bytes},
                             {"guaranteed", job.wanted.guaranteed_bytes},
                             {"revision", job.revision}};
  AppendLedger(record, slot, job.live() && job.report ? &*job.report : nullptr);
  record.emplace_back("steps_per_s", stands ? 0.0 : job.steps_per_s);
  record.emplace_back("step_ms", slot != nullptr ? slot->last_iteration_ns / 1e6
                                 : job.report    ? job.report->step_ms
                                                 : 0.0);
  record.emplace_back("pace", slot != nullptr ? slot->pace : 1.0);
  record.emplace_back("slowdown", Slowdown(slot));
  record.emplace_back("lane", lane != nullptr ? lane->id : -1);
  record.emplace_back("turn", lane != nullptr && (slot->turn || lane->holder == slot->index));
  record.emplace_back("slot", slot != nullptr ? slot->index : -1);
  record.emplace_back("predicted_suspend_ms", PredictedSuspendMs(job, slot));
  record.emplace_back("script", job.script);
  record.emplace_back("started", job.started);
  if (job.live() && job.report && !job.report->devices.empty())
    record.emplace_back("devices", wire::DeviceRecords(job.report->devices));
  if (job.exit) AppendExit(record, *job.exit);
  return record;
}

/// A process that uses the device without the daemon (TIDE_DAEMON=off), as if it were a job.
Job Unregistered(const SlotView& slot) {
  Job job;
  job.id = JobId(0);
  job.name = slot.name;
  job.pid = slot.pid;
  job.start_time = static_cast<int64_t>(slot.start_time);
  job.wanted.limit_bytes = slot.budget_bytes_max;
  job.wanted.guaranteed_bytes = slot.budget_bytes_guaranteed;
  job.wanted.priority = static_cast<wire::Priority>(std::min<uint32_t>(slot.priority, 2));
  return job;
}

wire::Value::Array LaneRecords(const State& state, const DeviceView& view) {
  wire::Value::Array lanes;
  for (const LaneView& lane : view.lanes) {
    wire::Value::Array members;
    for (const SlotView& slot : view.slots) {
      if (slot.lane == lane.id) members.emplace_back(SlotName(state, slot));
    }
    if (members.empty() && lane.handovers == 0 && lane.scratch_bytes == 0) continue;
    const SlotView* holder = view.Slot(lane.holder);
    lanes.push_back(
        wire::Value(wire::Value::Map{{"id", lane.id},
                                     {"policy", sched::TurnPolicyName(lane.policy)},
                                     {"holder", holder != nullptr ? SlotName(state, *holder) : ""},
                                     {"handovers", lane.handovers},
                                     {"scratch_bytes", lane.scratch_bytes + lane.retired_bytes},
                                     {"members", std::move(members)}}));
  }
  return lanes;
}

}  // namespace

wire::Value::Array JobRecords(const State& state, const DeviceView& view, const Moment&) {
  wire::Value::Array records;
  std::vector<bool> shown(shm::kSlotCount, false);
  const auto add = [&](const Job& job, const SlotView* slot) {
    if (records.size() < kRecordsMax) records.push_back(wire::Value(JobRecord(job, view, slot)));
  };
  for (const auto& [id, job] : state.jobs) {
    if (!job.live()) continue;
    const SlotView* slot = view.Find(job.pid, static_cast<uint64_t>(job.start_time), job.slot);
    if (slot != nullptr) shown[static_cast<size_t>(slot->index)] = true;
    add(job, slot);
  }
  for (const SlotView& slot : view.slots) {
    if (shown[static_cast<size_t>(slot.index)] || slot.orphans || slot.leaving) continue;
    add(Unregistered(slot), &slot);
  }
  for (auto it = state.jobs.rbegin(); it != state.jobs.rend(); ++it) {
    if (!it->second.live()) add(it->second, nullptr);
  }
  return records;
}

wire::Value::Map StatusRecord(const State& state, const DeviceView& view, const Moment& now) {
  return {{"version", TIDE_VERSION},
          {"pid", state.daemon_pid},
          {"uptime_s", absl::ToDoubleSeconds(now.wall - state.started)},
          {"generation", state.generation},
          {"capacity", view.capacity_bytes},
          {"used", view.held_bytes},
          {"charged", view.used_bytes},
          {"lanes", LaneRecords(state, view)},
          {"jobs", JobRecords(state, view, now)}};
}

}  // namespace tide::coordinator

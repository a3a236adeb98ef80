// Copies of the shared device table, and the few words that the daemon writes in it.
#include "coordinator/device_bridge.h"

#include <string.h>
#include <sys/stat.h>

#include "absl/strings/str_cat.h"
#include "base/atomics.h"
#include "base/log.h"
#include "shm/slot_table.h"
#include "wire/value.h"

namespace tide::coordinator {
namespace {

constexpr absl::Duration kLockPatience = absl::Milliseconds(20);

SlotView ReadSlot(const shm::JobSlot& slot, int index) {
  SlotView view;
  view.index = index;
  view.pid = slot.pid.load(kRelaxed);
  view.start_time = slot.start_time.load(kRelaxed);
  view.name.assign(slot.name, strnlen(slot.name, sizeof slot.name));
  if (!wire::IsUtf8(view.name)) view.name = absl::StrCat("pid ", view.pid);
  view.private_bytes = slot.private_bytes.load(kRelaxed);
  view.file_resident_bytes = slot.file_now_bytes.load(kRelaxed);
  view.outside_bytes = slot.outside_now_bytes.load(kRelaxed);
  view.demoted_bytes = slot.demoted_bytes.load(kRelaxed);
  view.persistent_bytes = slot.persistent_bytes.load(kRelaxed);
  view.scratch_peak_bytes = slot.scratch_peak_bytes.load(kRelaxed);
  view.peak_bytes = slot.peak_bytes.load(kRelaxed);
  view.budget_bytes_max = slot.budget_bytes_max.load(kRelaxed);
  view.budget_bytes_guaranteed = slot.budget_bytes_guaranteed.load(kRelaxed);
  view.reclaim_bytes = slot.reclaim_bytes.load(kRelaxed);
  view.lane = shm::TurnLane(slot.lane.load(kRelaxed));
  view.gang = slot.gang.load(kRelaxed);
  view.gang_rank = static_cast<int>(slot.gang_rank.load(kRelaxed));
  view.gang_state = static_cast<shm::GangState>(slot.gang_state.load(kRelaxed));
  const uint32_t flags = slot.flags.load(kRelaxed);
  view.ready = (flags & shm::kReady) != 0;
  view.idle = (flags & shm::kIdle) != 0;
  view.orphans = (flags & shm::kOrphans) != 0;
  view.leaving = (flags & shm::kLeaving) != 0;
  view.phase = static_cast<shm::Phase>(slot.phase.load(kRelaxed));
  view.priority = slot.priority.load(kRelaxed);
  view.weight = slot.weight_milli.load(kRelaxed) / 1000.0;
  view.joined_ns = slot.joined_ns.load(kRelaxed);
  view.service_ns = slot.service_ns.load(kRelaxed);
  view.virtual_ns = slot.virtual_ns.load(kRelaxed);
  view.last_iteration_ns = slot.last_iteration_ns.load(kRelaxed);
  view.remaining_ns = slot.remaining_ns.load(kRelaxed);
  view.heartbeat_ns = slot.heartbeat_ns.load(kRelaxed);
  view.iterations = slot.iterations.load(kRelaxed);
  view.rounds = slot.rounds.load(kRelaxed);
  view.pace = static_cast<double>(slot.pace_ppm.load(kRelaxed)) / shm::kPaceWhole;
  view.pace_law = static_cast<sched::PaceLawId>(slot.pace_law.load(kRelaxed));
  view.pace_for = slot.pace_for.load(kRelaxed);
  view.pace_loss = slot.pace_loss_ppm.load(kRelaxed) / 1e6;
  view.pace_cut_ns = slot.pace_cut_ns.load(kRelaxed);
  view.step_usual_ns = slot.step_usual_ns.load(kRelaxed);
  view.step_took_ns = slot.step_took_ns.load(kRelaxed);
  return view;
}

LaneView ReadLane(const shm::LaneSlot& lane, int id) {
  LaneView view;
  view.id = id;
  view.policy = static_cast<sched::TurnPolicyId>(lane.policy.load(kRelaxed));
  view.holder = shm::TurnWord::Holder(lane.turn.load(kRelaxed));
  view.handovers = lane.handovers.load(kRelaxed);
  view.granted_ns = lane.granted_ns.load(kRelaxed);
  view.quantum_ns = lane.quantum_ns.load(kRelaxed);
  view.scratch_bytes = lane.scratch_bytes.load(kRelaxed);
  view.retired_bytes = lane.retired_bytes.load(kRelaxed);
  return view;
}

}  // namespace

shm::DeviceFile* DeviceBridge::File() {
  struct stat info;
  const bool exists = stat(absl::StrCat(runtime_dir_, "/device-cpu0").c_str(), &info) == 0;
  // Removed or replaced by hand: what we have mapped is nobody's table any more.
  if (!exists || info.st_ino != inode_) file_.reset();
  if (file_ != nullptr || !exists) return file_.get();
  auto opened = shm::DeviceFile::Open(runtime_dir_);
  if (!opened.ok()) {
    Log(LogLevel::kWarning,
        absl::StrCat("event=device_table_unreadable reason=\"", opened.status().message(), "\""));
    return nullptr;
  }
  file_ = *std::move(opened);
  inode_ = info.st_ino;
  return file_.get();
}

DeviceView DeviceBridge::Read() {
  DeviceView view;
  const shm::DeviceFile* file = File();
  if (file == nullptr) return view;
  view.present = true;
  view.capacity_bytes = file->Capacity().value();
  view.held_bytes = file->Held().value();
  view.used_bytes = file->Used().value();
  const shm::DeviceTable& table = file->table();
  for (int index = 0; index < shm::kSlotCount; ++index) {
    if (!shm::IsLive(table.slots[index])) continue;
    view.slots.push_back(ReadSlot(table.slots[index], index));
    view.slots.back().turn = shm::HasTurn(table, index);
  }
  for (int id = 0; id < shm::kLaneCount; ++id) {
    view.lanes.push_back(ReadLane(table.lanes[id], id));
    for (int seat = id + shm::kLaneCount; seat < shm::kScratchCount; seat += shm::kLaneCount) {
      view.lanes.back().scratch_bytes += table.lanes[seat].scratch_bytes.load(kRelaxed);
      view.lanes.back().retired_bytes += table.lanes[seat].retired_bytes.load(kRelaxed);
    }
  }
  return view;
}

void DeviceBridge::WriteLanePolicy(int lane, sched::TurnPolicyId policy) {
  shm::DeviceFile* file = File();
  if (file == nullptr || lane < 0 || lane >= shm::kLaneCount) return;
  // relaxed: the next decision on the lane reads it, whichever that is
  file->lane(LaneId(lane)).policy.store(static_cast<uint32_t>(policy), kRelaxed);
}

int DeviceBridge::ReapDead() {
  shm::DeviceFile* file = File();
  if (file == nullptr) return 0;
  if (!file->Lock(kLockPatience).ok())
    return 0;  // a stopped process may hold it: never wait long here
  return file->ReapDead();
}

}  // namespace tide::coordinator

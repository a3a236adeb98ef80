// Whether this job may run beside the others, and on which lane: decided by the job itself from the
// shared table, once its sizes have been measured.
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/atomics.h"
#include "base/log.h"
#include "base/options.h"
#include "base/status.h"
#include "lane/members.h"
#include "runtime/runtime.h"
#include "shm/slot_table.h"

namespace tide::runtime {
namespace {

// Decisions of several jobs follow one another; who cannot get the lock tries again soon.
constexpr absl::Duration kLockPatience = absl::Milliseconds(20);

}  // namespace

bool Runtime::Measured() { return !Learning(iterations_.load(kRelaxed)); }

sched::AdmissionDecision Runtime::DecideAdmission() {
  const int64_t learnt = IntOption("memory.learn_from") + IntOption("memory.learn_iterations");
  std::vector<sched::AdmissionMember> members;
  for (int i = 0; i < shm::kSlotCount; ++i) {
    const shm::JobSlot& slot = device_->table().slots[i];
    if (!shm::IsLive(slot)) continue;
    sched::AdmissionMember member;
    member.id = SlotId(i);
    member.joined = absl::Nanoseconds(slot.joined_ns.load(kRelaxed));
    member.persistent =
        Bytes(slot.persistent_bytes.load(kRelaxed) + slot.outside_bytes.load(kRelaxed));
    member.scratch = Bytes(slot.scratch_peak_bytes.load(kRelaxed));
    member.lane = slot.lane.load(kRelaxed);
    member.priority = static_cast<sched::Priority>(slot.priority.load(kRelaxed));
    member.measured = slot.iterations.load(kRelaxed) >= learnt;
    member.queued = (slot.flags.load(kRelaxed) & shm::kQueued) != 0;
    members.push_back(member);
  }
  sched::AdmissionOptions options;
  options.capacity = device_->Capacity();
  options.lanes_max = options_.lanes_max;
  options.lane_fixed = options_.lane_fixed ? options_.lane : -1;
  options.queue = options_.queue;
  return sched::Admit(members, slot_id_, options);
}

bool Runtime::WaitsForAdmission() {
  if (options_.lane < 0 || in_gang_ || !Measured()) return false;
  if (admitted_) {
    SpreadOverLanes();
    return false;
  }
  const bool was_queued = queued_;
  sched::AdmissionDecision decision;
  {
    // The flag says to the others what was decided, before they decide.
    const auto lock = device_->Lock(kLockPatience);
    if (!lock.ok()) return queued_;
    decision = DecideAdmission();
    queued_ = !decision.admit;
    if (queued_) slot().flags.fetch_or(shm::kQueued, kRelaxed);
    if (!queued_) slot().flags.fetch_and(~static_cast<uint32_t>(shm::kQueued), kRelaxed);
  }
  if (queued_) {
    if (!was_queued) EnterQueue(decision.reason);
    slot().phase.store(static_cast<uint32_t>(shm::Phase::kQueued), kRelaxed);
    return true;
  }
  admitted_ = true;
  if (was_queued || !decision.fits) Tell("admitted", decision.reason);
  if (was_queued) LeaveQueue();
  if (LaneId(decision.lane) != lane_) {
    if (absl::Status moved = JoinLane(LaneId(decision.lane)); !moved.ok())
      Log(LogLevel::kWarning, absl::StrCat("event=lane_kept status=\"", moved.ToString(), "\""));
  }
  return false;
}

void Runtime::EnterQueue(const std::string& reason) {
  Tell("queued", reason);
  arena_->Trim(PageCount(0));
  if (absl::Status ready = EnsureSpill(); !ready.ok()) {
    Log(LogLevel::kWarning,
        absl::StrCat("event=queued_in_memory status=\"", ready.ToString(), "\""));
    return;
  }
  arena_->Demote(PageCount(int64_t{1} << 40));
  SampleSoon();
}

void Runtime::LeaveQueue() {
  slot().phase.store(static_cast<uint32_t>(shm::Phase::kWaiting), kRelaxed);
  if (!suspended_.load(kRelaxed)) BringBack();
}

void Runtime::SpreadOverLanes() {
  if (options_.lanes_max <= 1 || options_.lane_fixed || keep_turn_ || LaneMembers() <= 1) return;
  // Two that see the same empty lane both move to it, and one of them moves on or back next time.
  const sched::AdmissionDecision decision = DecideAdmission();
  const LaneId lane(decision.lane);
  lane::Members there;
  lane::GatherMembers(device_->table(), lane, slot_id_, there);
  if (lane == lane_ || !decision.fits || !there.empty()) return;
  if (JoinLane(lane).ok())
    Tell("lane", absl::StrCat("moved to lane ", lane.value(), ", which is free"));
}

absl::Status Runtime::JoinLane(LaneId lane) {
  // Members map a lane's scratch only while they belong to it.
  scratch_.reset();
  in_lane_ = false;
  TIDE_RETURN_IF_ERROR(turn_->Join(lane, options_.weight_milli * 0.001,
                                   static_cast<sched::Priority>(options_.priority)));
  turn_->SetLearning(!Measured());  // before its first turn as well
  in_lane_ = true;
  lane_ = lane;
  return absl::OkStatus();
}

}  // namespace tide::runtime

// The boundary of a process that has turns together with others of its job.
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "lane/members.h"
#include "runtime/cuda_job.h"
#include "runtime/runtime.h"

namespace tide::runtime {
namespace {

constexpr int kPatiences = 4;  // of a gang, that a suspension waits for all to stop

}  // namespace

void Runtime::JoinGang(const lane::GangPlace& place, bool meet) {
  in_gang_ = true;
  gang_place_ = place;
  gang_meets_ = meet;
}

void Runtime::EnterGang() {
  const bool wanted = options_.lane >= 0 && gang_place_.key != 0;
  if (gang_ != nullptr && (!wanted || gang_->place() != gang_place_)) LeaveGang();
  if (gang_ == nullptr && wanted) {
    gang_ = std::make_unique<lane::Gang>(*device_, slot_id_, clock_, gang_place_,
                                         std::exchange(gang_meets_, false) ? step_ : -1);
  }
}

void Runtime::LeaveGang() {
  // The followers are told first: after the turn has passed nobody is on a seat by right.
  gang_.reset();
  on_seat_ = false;
  scratch_.reset();
  if (turn_ != nullptr) turn_->Leave();
  in_lane_ = false;
}

bool Runtime::WantsClose() {
  if (orders_.Suspends() || gang_->SomebodyStands()) return true;
  if (Learning(iterations_.load(std::memory_order_relaxed))) return false;
  if (clock_.MonotonicNanos() < hold_until_ns_) return false;  // its memory has just come
  const shm::LaneSlot& lane = device_->lane(lane_);
  // relaxed: times, each right by itself
  const int64_t served_ns =
      clock_.MonotonicNanos() - lane.granted_ns.load(std::memory_order_relaxed);
  if (served_ns < lane.quantum_ns.load(std::memory_order_relaxed)) return false;
  return lane::AnyReady(device_->table(), lane_, slot_id_) || WaitsForPace();
}

lane::WaitHooks Runtime::GangHooks(const std::function<bool()>& interrupted) {
  lane::WaitHooks hooks;
  hooks.on_wake = [this] {
    SayStands();
    const bool suspended = suspended_.load(std::memory_order_relaxed);
    CarryOutOrders(Returns::kToNextIteration);
    SayStands();
    if (suspended && !suspended_.load(std::memory_order_relaxed))  // and waits on
      slot().phase.store(static_cast<uint32_t>(shm::Phase::kWaiting), std::memory_order_relaxed);
    // Nobody runs on its devices until it is let go: whoever has the turn may have any page.
    CudaJob* const cuda = CudaJob::Current();
    if (cuda != nullptr && !LeadsGang() && gang_->closed()) cuda->AtBoundary(CudaJob::Idle::kYes);
  };
  // The leader gives the turn away when it holds all.
  hooks.on_park = [this] { FinishDeviceWork(); };
  hooks.cancelled = [&interrupted] { return interrupted && interrupted(); };
  return hooks;
}

absl::StatusOr<bool> Runtime::MeetGang(const std::function<bool()>& interrupted) {
  const bool held = in_lane_ && turn_->Holds();
  const absl::Status met = LeadsGang() ? LeadGang(interrupted) : FollowGang(interrupted);
  if (absl::IsCancelled(met)) return Interrupted("interrupted while waiting for the gang");
  TIDE_RETURN_IF_ERROR(met);
  if (suspended_.load(std::memory_order_relaxed)) return false;
  if (LeadsGang() && in_lane_ && !turn_->Holds()) {
    if (orders_.Suspends()) return false;  // its gang has stopped
    if (GangStands()) {
      if (interrupted && interrupted())
        return Interrupted("interrupted while a process of the gang is paused");
      SleepUntilOrdered();
      return false;
    }
  }
  return !(held && !turn_->Holds() && WaitsForPace());
}

absl::Duration Runtime::PatienceWithGang() {
  if (gang_->meets()) return lane::kMeetPatience;
  return lane::GangPatience(
      absl::Nanoseconds(slot().last_iteration_ns.load(std::memory_order_relaxed)));
}

bool Runtime::SuspendWaitsForGang() {
  if (gang_ == nullptr || gang_->place().size == 1 || !orders_.Suspends()) return false;
  const bool waits =
      LeadsGang() ? in_lane_ && turn_->Holds() : !gang_->apart() && !gang_->MayStand();
  if (!waits) return false;
  const int64_t now = clock_.MonotonicNanos();
  if (suspend_waits_ns_ == 0) suspend_waits_ns_ = now;
  // A close is said one step before, and waits for the others so long: twice, for one in vain.
  return absl::Nanoseconds(now - suspend_waits_ns_) < kPatiences * PatienceWithGang();
}

void Runtime::SayStands() {
  if (gang_ == nullptr) return;
  const bool suspended = suspended_.load(std::memory_order_relaxed);
  if (!LeadsGang()) gang_->SayStands(suspended || orders_.Suspends());
  // Its flag lets others move their memory: it has no turn then. Taken back by Gang::Stands.
  if (LeadsGang() && suspended) gang_->SayStands(true);
}

bool Runtime::GangStands() {
  if (!gang_->Stands()) return false;
  LeaveMeter();
  turn_->Release(/*continuing=*/false);
  gang_->HoldWhoWaits();
  slot().phase.store(static_cast<uint32_t>(shm::Phase::kWaiting), std::memory_order_relaxed);
  return true;
}

void Runtime::GiveKeptTurn() {
  turn_->SetReady(false);
  FinishDeviceWork();
  // Followers that are in an iteration keep their seats, as Note [Gangs] says.
  if (!LeadsGang() || survivors_stay_) return;
  turn_->Release(/*continuing=*/false);
  gang_->HoldWhoWaits();
}

absl::Status Runtime::LeadGang(const std::function<bool()>& interrupted) {
  if (survivors_stay_ || (in_lane_ && !turn_->Holds())) return absl::OkStatus();
  if (in_lane_ && !gang_->closing() && !WantsClose()) return absl::OkStatus();
  // Devices may be iterations behind, those of the others as well: that is no time of waiting.
  if (gang_->ClosesBefore(step_)) FinishDeviceWork();
  const int64_t begin = clock_.MonotonicNanos();
  TIDE_ASSIGN_OR_RETURN(const lane::Gang::Closing closing,
                        gang_->Close(step_, PatienceWithGang(), GangHooks(interrupted)));
  // Nobody ran meanwhile: no service.
  if (in_lane_) turn_->Excuse(absl::Nanoseconds(clock_.MonotonicNanos() - begin));
  if (closing == lane::Gang::Closing::kOpen) return absl::OkStatus();
  keep_turn_ = false;
  if (in_lane_) {
    FinishDeviceWork();
    turn_->SetLearning(Learning(iterations_.load(std::memory_order_relaxed)));
    turn_->Release(!WaitsForPace() && !orders_.Suspends() && !gang_->SomebodyStands());
    return absl::OkStatus();
  }
  if (turn_ == nullptr) turn_ = std::make_unique<lane::Turn>(*device_, slot_id_, clock_);
  const absl::Status joined = JoinLane(LaneId(DecideAdmission().lane));
  if (!joined.ok()) gang_->Dissolve();
  return joined;
}

absl::Status Runtime::FollowGang(const std::function<bool()>& interrupted) {
  if (survivors_stay_) return absl::OkStatus();  // its seat holds them
  // Twice the leader's, whose own iteration may have been longer.
  TIDE_RETURN_IF_ERROR(gang_->Follow(step_, 2 * PatienceWithGang(), GangHooks(interrupted)));
  UseSeat();
  return absl::OkStatus();
}

void Runtime::UseSeat() {
  const LaneId lane = gang_->lane();
  if (lane == LaneId() || gang_place_.rank >= shm::kSeatCount) return;
  const LaneId seat(gang_place_.rank * shm::kLaneCount + lane.value());
  if (turn_ == nullptr) turn_ = std::make_unique<lane::Turn>(*device_, slot_id_, clock_);
  if (turn_->lane() != seat) {
    // Members map a seat's scratch only while they belong to it.
    scratch_.reset();
    if (const absl::Status joined = turn_->Join(seat); !joined.ok()) {
      Log(LogLevel::kWarning, absl::StrCat("event=no_seat status=\"", joined.ToString(), "\""));
      return;
    }
    lane_ = seat;
  }
  on_seat_ = gang_->TakeSeat();
  if (on_seat_) MapScratch();
}

}  // namespace tide::runtime

// The transitions of a gang: announced, parked, held, open again; and back when somebody is
// missing.
#include "lane/gang.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/atomics.h"
#include "base/log.h"
#include "base/status.h"
#include "shm/futex.h"
#include "shm/slot_table.h"

namespace tide::lane {
namespace {

using shm::GangState;

constexpr absl::Duration kPatienceMin = absl::Milliseconds(500);
constexpr int kPatienceIterations = 4;
constexpr int64_t kRetryFirstNanos = 250'000'000, kRetryMostNanos = 30'000'000'000;

uint32_t Word(GangState state) { return static_cast<uint32_t>(state); }

GangState StateOf(const shm::JobSlot& slot) {
  return static_cast<GangState>(slot.gang_state.load());  // seq_cst: Note [Gangs]
}

bool Swap(shm::JobSlot& slot, GangState from, GangState to) {
  uint32_t expected = Word(from);
  return slot.gang_state.compare_exchange_strong(expected, Word(to));  // seq_cst: Note [Gangs]
}

bool Alive(const shm::JobSlot& slot) {
  return shm::ProcessAlive(slot.pid.load(kRelaxed), slot.start_time.load(kRelaxed));
}

}  // namespace

absl::Duration GangPatience(absl::Duration iteration) {
  return std::max(kPatienceMin, kPatienceIterations * iteration);
}

Gang::Gang(shm::DeviceFile& device, SlotId self, Clock& clock, GangPlace place, int64_t meet)
    : device_(device),
      self_(self),
      clock_(clock),
      place_(place),
      pid_(getpid()),
      meets_(meet >= 0 && place.size > 1) {
  own().gang_state.store(Word(GangState::kApart));
  own().gang_close.store(-1);
  if (meets_ && leader()) Announce(meet);
  // relaxed: published by the key below
  own().gang_rank.store(static_cast<uint32_t>(place.rank), kRelaxed);
  own().gang_size.store(static_cast<uint32_t>(place.size), kRelaxed);
  own().gang.store(place.key, std::memory_order_release);  // release: pairs with Belongs
  if (meets_ && leader()) WakeOthers();
}

Gang::~Gang() {
  if (getpid() != pid_) return;
  if (leader()) Dissolve();
  SayStands(false);
  own().gang.store(0, std::memory_order_release);
  GoApart();
  LeaveSeat();
}

bool Gang::Belongs(const shm::JobSlot& slot) const {
  // acquire: pairs with the constructor's release
  return shm::IsLive(slot) && slot.gang.load(std::memory_order_acquire) == place_.key &&
         !shm::IsLeaving(slot);
}

bool Gang::Complete() const {
  uint64_t ranks = 0;
  int found = 0;
  for (const shm::JobSlot& slot : device_.table().slots) {
    if (!Belongs(slot)) continue;
    const uint32_t rank = slot.gang_rank.load(kRelaxed);  // relaxed: published by the key
    if (rank >= static_cast<uint32_t>(place_.size)) return false;
    ranks |= uint64_t{1} << rank;
    ++found;
  }
  return found == place_.size && std::popcount(ranks) == place_.size;
}

// ------------------------------------------------------------------------------------------------
// The leader

absl::StatusOr<Gang::Closing> Gang::Close(int64_t step, absl::Duration patience,
                                          const WaitHooks& hooks) {
  if (place_.size == 1) return Closing::kClosed;
  const int64_t begin_ns = clock_.MonotonicNanos();
  if (!closing()) {
    const bool apart = formed_ && vain_closes_ >= kVainClosesMax;
    if (begin_ns >= retry_ns_ && (formed_ || Complete())) Announce(step + 1);
    return apart ? Closing::kApart : Closing::kOpen;
  }
  if (step < announced_step_) {  // a loop that makes no steps, as an evaluation
    return begin_ns - announced_ns_ <= absl::ToInt64Nanoseconds(patience) ? Closing::kOpen
                                                                          : Failed();
  }
  const int64_t deadline_ns = begin_ns + absl::ToInt64Nanoseconds(patience);
  int64_t looked_ns = begin_ns;
  for (bool tick = false;;) {
    const uint32_t seen = own().wake_word.load(std::memory_order_acquire);  // acquire: as in Turn
    if ((formed_ || Complete()) && HoldAll(tick)) {
      meets_ = false;
      announced_step_ = -1;
      vain_closes_ = 0;
      formed_ = closed_ = true;
      return Closing::kClosed;
    }
    if (hooks.cancelled && hooks.cancelled()) {
      TakeBack();
      return absl::CancelledError("waiting for the ranks of the gang was cancelled");
    }
    if (hooks.on_wake) hooks.on_wake();
    const int64_t now_ns = clock_.MonotonicNanos();
    if (now_ns >= deadline_ns) return Failed();
    shm::FutexWait(own().wake_word, seen,
                   std::min(hooks.tick, absl::Nanoseconds(deadline_ns - now_ns)));
    tick = clock_.MonotonicNanos() - looked_ns >= absl::ToInt64Nanoseconds(hooks.tick);
    if (tick) looked_ns = clock_.MonotonicNanos();
  }
}

void Gang::Announce(int64_t step) {
  announced_step_ = step;
  announced_ns_ = clock_.MonotonicNanos();
  own().gang_close.store(step);  // seq_cst: Note [Gangs]
}

bool Gang::HoldAll(bool look_for_dead) {
  bool all = true;
  for (shm::JobSlot& slot : device_.table().slots) {
    if (!Belongs(slot) || &slot == &own()) continue;
    if (StateOf(slot) == GangState::kHeld || Swap(slot, GangState::kParked, GangState::kHeld)) {
      continue;
    }
    if (!look_for_dead || Alive(slot)) all = false;
  }
  // Who was held goes back: it may go on by itself while others are missing.
  if (!all) Release(GangState::kHeld, GangState::kParked);
  return all;
}

void Gang::Release(GangState from, GangState to) {
  for (shm::JobSlot& slot : device_.table().slots) {
    if (!Belongs(slot) || &slot == &own()) continue;
    if (Swap(slot, from, to) && to != GangState::kParked) shm::WakeSlot(slot);
  }
}

void Gang::TakeBack() {
  announced_step_ = -1;
  own().gang_close.store(-1);  // seq_cst: before the wakes
  for (shm::JobSlot& slot : device_.table().slots) {
    if (Belongs(slot) && StateOf(slot) == GangState::kParked) shm::WakeSlot(slot);
  }
}

Gang::Closing Gang::Failed() {
  TakeBack();
  if (std::exchange(meets_, false)) return Closing::kOpen;
  vain_closes_ = std::min(vain_closes_ + 1, 16);
  retry_ns_ =
      clock_.MonotonicNanos() + std::min(kRetryFirstNanos << (vain_closes_ - 1), kRetryMostNanos);
  Log(LogLevel::kInfo, absl::StrCat("event=gang_not_closed times=", vain_closes_));
  return formed_ && vain_closes_ >= kVainClosesMax ? Closing::kApart : Closing::kOpen;
}

void Gang::HoldWhoWaits() {
  if (formed_ && !closed_) closed_ = HoldAll(/*look_for_dead=*/true);
}

void Gang::Open(int64_t step, bool again) {
  closed_ = false;
  if (closing() && announced_step_ <= step) TakeBack();  // this step is made: nobody may wait there
  if (again && vain_closes_ == 0 && place_.size > 1) {
    Announce(step + 1);
  } else if (!closing()) {
    own().gang_close.store(-1);  // seq_cst: before the followers see that they may go on
  }
  Release(GangState::kHeld, GangState::kIn);
  Release(GangState::kParked, GangState::kIn);
}

void Gang::Dissolve() {
  TakeBack();
  formed_ = closed_ = false;
  Release(GangState::kHeld, GangState::kApart);
  Release(GangState::kParked, GangState::kApart);
  Release(GangState::kIn, GangState::kApart);
}

bool Gang::LookForStanding() {
  somebody_stands_ = false;
  for (const shm::JobSlot& slot : device_.table().slots) {
    if (!Belongs(slot) || &slot == &own()) continue;
    if ((slot.flags.load() & shm::kStands) == 0) continue;  // seq_cst: Note [A gang stands]
    if (Alive(slot)) somebody_stands_ = true;
  }
  return somebody_stands_;
}

bool Gang::SomebodyStands() {
  const uint32_t word = own().wake_word.load(std::memory_order_acquire);  // acquire: the flag too
  if (word == looked_word_ && !somebody_stands_) return false;
  looked_word_ = word;
  return LookForStanding();
}

bool Gang::Stands() {
  // seq_cst: Note [A gang stands]
  const bool stood = (own().flags.load() & shm::kStands) != 0;
  if (stood) own().flags.fetch_and(~static_cast<uint32_t>(shm::kStands));
  if (!(stood ? LookForStanding() : SomebodyStands())) return false;
  own().flags.fetch_or(shm::kStands);
  if (!stood) WakeOthers();
  return true;
}

void Gang::WakeOthers() {
  for (shm::JobSlot& slot : device_.table().slots) {
    if (Belongs(slot) && &slot != &own()) shm::WakeSlot(slot);
  }
}

// ------------------------------------------------------------------------------------------------
// A follower

const shm::JobSlot* Gang::Leader() {
  const auto leads = [this](const shm::JobSlot& slot) {
    return Belongs(slot) && slot.gang_rank.load(kRelaxed) == 0;  // relaxed: published by the key
  };
  if (leader_ != SlotId(-1) && leads(device_.slot(leader_))) return &device_.slot(leader_);
  leader_ = SlotId(-1);
  for (int i = 0; i < shm::kSlotCount; ++i) {
    if (!leads(device_.table().slots[i])) continue;
    leader_ = SlotId(i);
    return &device_.table().slots[i];
  }
  return nullptr;
}

bool Gang::LeaderGone(const shm::JobSlot& leader) {
  if (!Belongs(leader)) return true;
  const int32_t pid = leader.pid.load(kRelaxed);  // relaxed: published with the slot's state
  const uint64_t start_time = leader.start_time.load(kRelaxed);
  if (!leader_fd_ || pid != leader_pid_) {
    auto opened = shm::PidFd::Open(pid, start_time);
    leader_fd_ = opened.ok() ? *std::move(opened) : shm::PidFd();
    leader_pid_ = pid;
  }
  return leader_fd_ ? leader_fd_.Dead() : !shm::ProcessAlive(pid, start_time);
}

bool Gang::LeaderWaits(const shm::JobSlot& leader) const {
  // relaxed: who sees an old word waits until it is woken, or not at all
  const int lane = leader.lane.load(kRelaxed);
  if (lane < 0 || lane >= shm::kLaneCount) return false;
  const uint64_t word = device_.lane(LaneId(lane)).turn.load(kRelaxed);
  return shm::TurnWord::Holder(word) != leader_.value() || !shm::TurnWord::Taken(word);
}

bool Gang::Exchange(GangState from, GangState to) { return Swap(own(), from, to); }

void Gang::GoApart() { own().gang_state.store(Word(GangState::kApart)); }

absl::Status Gang::AwaitLeader(absl::Duration patience, const WaitHooks& hooks) {
  const int64_t deadline_ns = clock_.MonotonicNanos() + absl::ToInt64Nanoseconds(patience);
  for (;;) {
    const uint32_t seen = own().wake_word.load(std::memory_order_acquire);  // acquire: as in Turn
    if (Leader() != nullptr || clock_.MonotonicNanos() >= deadline_ns) return absl::OkStatus();
    if (hooks.cancelled && hooks.cancelled()) {
      return absl::CancelledError("waiting for the leader of the gang was cancelled");
    }
    if (hooks.on_wake) hooks.on_wake();
    shm::FutexWait(own().wake_word, seen, hooks.tick);
  }
}

absl::Status Gang::Follow(int64_t step, absl::Duration patience, const WaitHooks& hooks) {
  if (std::exchange(meets_, false)) TIDE_RETURN_IF_ERROR(AwaitLeader(patience, hooks));
  const shm::JobSlot* const leader = Leader();
  if (leader == nullptr) {
    GoApart();
    return absl::OkStatus();
  }
  const int64_t close = leader->gang_close.load();  // seq_cst: Note [Gangs]
  const GangState before = StateOf(own());
  const bool said = close >= 0 && step >= close && close != given_up_step_;
  // Without the turn the gang computes for nobody.
  if (!said && (before != GangState::kIn || !LeaderWaits(*leader))) return absl::OkStatus();
  if (hooks.on_park) hooks.on_park();
  own().gang_state.store(Word(GangState::kParked));  // seq_cst: Note [Gangs]
  own().phase.store(static_cast<uint32_t>(shm::Phase::kWaiting), kRelaxed);
  device_.Wake(leader_);
  const int64_t deadline_ns = clock_.MonotonicNanos() + absl::ToInt64Nanoseconds(patience);
  for (;;) {
    const uint32_t seen = own().wake_word.load(std::memory_order_acquire);  // acquire: as in Turn
    const GangState state = StateOf(own());
    if (state == GangState::kIn || state == GangState::kApart) return absl::OkStatus();
    const bool gone = LeaderGone(*leader);
    if (gone) {
      GoApart();
      return absl::OkStatus();
    }
    if (hooks.cancelled && hooks.cancelled()) {
      GoApart();
      return absl::CancelledError("waiting for the turn of the gang was cancelled");
    }
    const bool late = clock_.MonotonicNanos() >= deadline_ns;
    const bool over = said ? leader->gang_close.load() != close : !LeaderWaits(*leader);
    if (state == GangState::kParked && (late || over)) {
      if (Exchange(GangState::kParked, before)) {
        if (said && late) given_up_step_ = close;
        return absl::OkStatus();
      }
      continue;
    }
    if (hooks.on_wake) hooks.on_wake();
    shm::FutexWait(own().wake_word, seen, hooks.tick);
  }
}

bool Gang::MayStand() {
  if (StateOf(own()) != GangState::kHeld) return false;
  const shm::JobSlot* const leader = Leader();
  return leader != nullptr && (leader->flags.load() & shm::kStands) != 0;  // seq_cst: as the flag
}

bool Gang::apart() const { return StateOf(own()) == GangState::kApart; }

bool Gang::closed() const {
  return leader() ? closed_ || place_.size == 1 : StateOf(own()) == GangState::kHeld;
}

void Gang::SayStands(bool stands) {
  const bool said = (own().flags.load() & shm::kStands) != 0;
  if (said == stands) return;
  // seq_cst: Note [A gang stands]
  if (stands) {
    own().flags.fetch_or(shm::kStands);
  } else {
    own().flags.fetch_and(~static_cast<uint32_t>(shm::kStands));
  }
  for (shm::JobSlot& slot : device_.table().slots) {
    const bool leads = slot.gang_rank.load(kRelaxed) == 0;  // relaxed: published by the key
    if (&slot != &own() && Belongs(slot) && (leader() || leads)) shm::WakeSlot(slot);
  }
}

LaneId Gang::lane() const {
  if (StateOf(own()) != GangState::kIn || leader_ == SlotId(-1)) return LaneId();
  // relaxed: a leader that moves to another lane moves its followers with their next iteration
  const int lane = device_.slot(leader_).lane.load(kRelaxed);
  return lane < 0 || lane >= shm::kLaneCount ? LaneId() : LaneId(lane);
}

bool Gang::TakeSeat() {
  own().flags.fetch_or(shm::kOnSeat);  // seq_cst: Note [Gangs]
  const int lane = own().lane.load(kRelaxed);
  for (const shm::JobSlot& slot : device_.table().slots) {
    if (&slot == &own() || !shm::IsLive(slot)) continue;
    // seq_cst: Note [Gangs]; the flag first: who sees it also sees the lane that was joined before
    if ((slot.flags.load() & shm::kOnSeat) == 0 || slot.lane.load() != lane) continue;
    if (!Alive(slot)) continue;
    LeaveSeat();
    return false;
  }
  return true;
}

void Gang::LeaveSeat() {
  // seq_cst: after the last touch of the pages
  own().flags.fetch_and(~static_cast<uint32_t>(shm::kOnSeat));
}

}  // namespace tide::lane

// The turn word's transitions: granted, taken, passed on, passed over.
//
// Note [No lost turn]
// Three races could leave the turn with somebody who does not run, and each is closed by the same
// pattern: both sides write their own word first and read the other's afterwards, all sequentially
// consistent, so at least one of the two sees the other's write.
//  - Nobody was ready, so the releaser writes "nobody" and then scans the ready flags again; who
//  becomes ready
//    sets its flag and then reads the turn word. Either the scan finds the flag or the reader finds
//    "nobody".
//  - The turn was granted to a member that withdraws (cancelled, loader empty): it clears its flag
//  and then reads
//    the turn word; the granter writes the word and then reads the flag. Whoever sees it passes the
//    turn on; if both do, one compare-and-swap fails.
//  - Sleeping: a waiter reads its wake word before it looks at the turn word, and the granter
//  writes the turn word
//    before it bumps the wake word. If the waiter missed the new turn word, the wake word differs
//    from what it read, and the futex refuses to sleep (EAGAIN).
// A granter killed between the two steps of a pair loses at most one tick: waiters look every kTick
// anyway.
#include "lane/turn.h"

#include <errno.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/atomics.h"
#include "base/log.h"
#include "base/options.h"
#include "base/status.h"
#include "lane/members.h"
#include "shm/futex.h"
#include "shm/slot_table.h"

namespace tide::lane {
namespace {

using shm::TurnWord;

constexpr double kWeightMin = 0.001;
constexpr double kWeightMax = 1'000'000;

void SetPhase(shm::JobSlot& slot, shm::Phase phase) {
  slot.phase.store(static_cast<uint32_t>(phase), kRelaxed);  // relaxed: shown to people only
}

absl::Status CheckShare(double weight) {
  if (weight >= kWeightMin && weight <= kWeightMax) return absl::OkStatus();  // false for NaN
  return absl::InvalidArgumentError(absl::StrCat(
      "weight ", weight, " of a lane's member must lie in [", kWeightMin, ", ", kWeightMax, "]"));
}

}  // namespace

Turn::Turn(shm::DeviceFile& device, SlotId self, Clock& clock)
    : device_(device), self_(self), clock_(clock), pid_(getpid()) {}

Turn::~Turn() {
  if (getpid() == pid_) Leave();
}

absl::Status Turn::Join(LaneId lane, double weight, sched::Priority priority) {
  if (lane.value() < 0 || lane.value() >= shm::kScratchCount) {
    return absl::InvalidArgumentError(absl::StrCat(
        "lane ", lane.value(), " does not exist; lanes are 0 to ", shm::kScratchCount - 1));
  }
  TIDE_RETURN_IF_ERROR(CheckShare(weight));
  Leave();
  device_.ReapDead();
  TIDE_ASSIGN_OR_RETURN(const shm::FileLock lock, device_.Lock());
  Members others;
  GatherMembers(device_.table(), lane, self_, others);
  if (others.empty()) TIDE_RETURN_IF_ERROR(SetUpEmptyLane(device_.lane(lane)));
  shm::JobSlot& slot = own();
  // relaxed: published by the lane below
  slot.virtual_ns.store(absl::ToInt64Nanoseconds(sched::StartLine(others, self_)), kRelaxed);
  slot.rounds.store(sched::StartRound(others, self_), kRelaxed);
  slot.joined_ns.store(clock_.MonotonicNanos(), kRelaxed);
  slot.heartbeat_ns.store(clock_.MonotonicNanos(), kRelaxed);
  SetShare(weight, priority);
  slot.lane.store(lane.value(), std::memory_order_release);  // release: pairs with IsMember
  // seq_cst: before the ready flag in the single order, Note [No lost turn]
  device_.lane(lane).member_bits[self_.value() / 64].fetch_or(uint64_t{1} << (self_.value() % 64));
  lane_ = lane;
  handled_wake_ = slot.wake_word.load(std::memory_order_acquire);  // acquire: as in Acquire
  return absl::OkStatus();
}

absl::Status Turn::SetUpEmptyLane(shm::LaneSlot& lane) {
  TIDE_ASSIGN_OR_RETURN(const sched::TurnPolicyId policy,
                        sched::ParseTurnPolicy(TextOption("lane.policy")));
  // relaxed: parameters of decisions, each right by itself
  lane.policy.store(static_cast<uint32_t>(policy), kRelaxed);
  lane.virtual_ns.store(0, kRelaxed);
  lane.rounds.store(0, kRelaxed);
  lane.quantum_ns.store(IntOption("lane.quantum_ms") * 1'000'000, kRelaxed);
  return absl::OkStatus();
}

void Turn::Leave() {
  if (lane_ == LaneId()) return;
  if (Holds()) BookService(clock_.MonotonicNanos());
  Withdraw();
  own().lane.store(-1, std::memory_order_release);  // release: who sees it sees the service booked
  shm::ForgetMember(device_.table(), self_);
  SetPhase(own(), shm::Phase::kOutside);
  lane_ = LaneId();
  watch_.Reset();
  taken_word_.store(0, kRelaxed);  // relaxed: read by this process only, for information
}

void Turn::SetShare(double weight, sched::Priority priority) {
  const double clamped = std::clamp(weight, kWeightMin, kWeightMax);
  own().weight_milli.store(static_cast<uint32_t>(clamped * 1000 + 0.5),
                           kRelaxed);                               // relaxed: one number
  own().priority.store(static_cast<uint32_t>(priority), kRelaxed);  // relaxed: one number
}

void Turn::BecomeReady() {
  shm::JobSlot& slot = own();
  if ((slot.flags.load(kRelaxed) & shm::kReady) != 0)
    return;  // relaxed: a clear by others is seen next time
  // Who was away does not come back with a claim on all the turns it did not ask for: it may lag
  // behind the others by one iteration of its own, not more (start-time fair queueing with one
  // iteration of slack). "The others" are those that want turns now, else who had the turn last.
  Members others;
  GatherMembers(device_.table(), lane_, self_, others);
  const bool company = AnyReady(device_.table(), lane_, self_);
  // relaxed throughout: inputs of decisions, the slot's written by the owner only
  const int64_t line_ns = company ? absl::ToInt64Nanoseconds(sched::StartLine(others, self_))
                                  : this->slot().virtual_ns.load(kRelaxed);
  const int64_t round =
      company ? sched::StartRound(others, self_) : this->slot().rounds.load(kRelaxed);
  const int64_t slack_ns = slot.last_iteration_ns.load(kRelaxed) * 1000 /
                           std::max<int64_t>(slot.weight_milli.load(kRelaxed), 1);
  if (slot.virtual_ns.load(kRelaxed) < line_ns - slack_ns) {
    slot.virtual_ns.store(line_ns - slack_ns, kRelaxed);
  }
  if (slot.rounds.load(kRelaxed) < round - 1) slot.rounds.store(round - 1, kRelaxed);
  slot.flags.fetch_or(shm::kReady);  // seq_cst: Note [No lost turn]
}

void Turn::Withdraw() {
  own().flags.fetch_and(~static_cast<uint32_t>(shm::kReady));  // seq_cst: Note [No lost turn]
  const uint64_t word = slot().turn.load();                    // seq_cst: Note [No lost turn]
  if (TurnWord::Holder(word) == self_.value()) PassTurn(word, self_);
}

void Turn::SetReady(bool ready) {
  if (lane_ == LaneId()) return;
  if (ready) {
    BecomeReady();
  } else if (Holds()) {
    own().flags.fetch_and(~static_cast<uint32_t>(shm::kReady));  // seq_cst: Note [No lost turn]
  } else {
    Withdraw();
  }
}

bool Turn::Holds() const {
  const uint64_t mine = taken_word_.load(kRelaxed);  // relaxed: the table's word decides
  // acquire: who finds that it holds also sees what the previous holder wrote
  return lane_ != LaneId() && mine != 0 && slot().turn.load(std::memory_order_acquire) == mine;
}

uint64_t Turn::epoch() const {
  return TurnWord::Epoch(taken_word_.load(kRelaxed));  // relaxed: one number
}

bool Turn::Granted() const {
  // acquire: as in Holds
  return lane_ != LaneId() &&
         TurnWord::Holder(slot().turn.load(std::memory_order_acquire)) == self_.value();
}

std::optional<SlotId> Turn::HolderBefore() const {
  if (lane_ == LaneId()) return std::nullopt;
  const uint64_t word = slot().turn.load(std::memory_order_acquire);  // acquire: as in Holds
  const int holder = TurnWord::Holder(word);
  if (holder < 0 || holder == self_.value() || !TurnWord::Taken(word)) return std::nullopt;
  Members members;
  GatherMembers(device_.table(), lane_, SlotId(holder), members);
  if (Decide(word, members, clock_.MonotonicNanos()).next != self_) return std::nullopt;
  return SlotId(holder);
}

absl::Status Turn::Acquire(const WaitHooks& hooks) {
  if (lane_ == LaneId()) return absl::FailedPreconditionError("this process has joined no lane");
  if (Holds()) return absl::OkStatus();
  shm::JobSlot& slot = own();
  SetPhase(slot, shm::Phase::kWaiting);
  last_check_ns_ = 0;
  for (bool tick = false;;) {
    BecomeReady();  // again on each round: a waiter that slept through its turn is passed over and
                    // unset
    // acquire, and before the turn word is looked at: Note [No lost turn], third race
    const uint32_t seen = slot.wake_word.load(std::memory_order_acquire);
    if (TryTake()) return absl::OkStatus();
    if (hooks.cancelled && hooks.cancelled()) {
      Withdraw();
      SetPhase(slot, shm::Phase::kOutside);
      return absl::CancelledError("waiting for the turn was cancelled");
    }
    if ((tick || seen != handled_wake_) && hooks.on_wake) hooks.on_wake();
    handled_wake_ = seen;
    const int rc = shm::FutexWait(slot.wake_word, seen, hooks.tick);
    const int64_t now_ns = clock_.MonotonicNanos();
    if (last_check_ns_ == 0) last_check_ns_ = now_ns;
    // By time as well as by timeout: frequent wakes must not keep a dead holder's turn from being
    // found.
    tick = rc == ETIMEDOUT || now_ns - last_check_ns_ >= absl::ToInt64Nanoseconds(hooks.tick);
    if (tick) {
      last_check_ns_ = now_ns;
      CheckHolder();
    }
  }
}

bool Turn::TryTake() {
  std::atomic<uint64_t>& turn = slot().turn;
  uint64_t word = turn.load();  // seq_cst: Note [No lost turn]
  // Bounded: each round either ends here or some other process has moved the word.
  for (int round = 0; round < shm::kSlotCount; ++round) {
    const int holder = TurnWord::Holder(word);
    if (holder < 0) {
      PassTurn(word, SlotId());  // by policy: it may name another that is ready too
      word = turn.load();        // seq_cst: Note [No lost turn]
      continue;
    }
    if (holder != self_.value()) return false;
    // A word that says "taken" but was not taken by us is of a dead owner of this slot: offered to
    // us anew.
    const uint64_t taken =
        TurnWord::Take(TurnWord::Taken(word) ? TurnWord::Grant(word, self_.value()) : word);
    // seq_cst (acquire would do here): pairs with the releaser's exchange, so that its pages are
    // seen
    if (!turn.compare_exchange_strong(word, taken)) continue;
    taken_word_.store(taken, kRelaxed);  // relaxed: the table's word decides
    hold_start_ns_ = clock_.MonotonicNanos();
    own().heartbeat_ns.store(hold_start_ns_, kRelaxed);  // relaxed: a time, read by itself
    SetPhase(own(), shm::Phase::kRunning);
    return true;
  }
  return false;
}

void Turn::BookService(int64_t now_ns) {
  shm::JobSlot& slot = own();
  const int64_t took_ns = now_ns - hold_start_ns_;
  // relaxed: only the owner writes them; the exchange of the turn word publishes them to the next
  // decision
  slot.service_ns.store(slot.service_ns.load(kRelaxed) + took_ns, kRelaxed);
  const int64_t weight_milli = std::max<int64_t>(slot.weight_milli.load(kRelaxed), 1);
  const double weighted_ns =
      static_cast<double>(took_ns) * 1000 / static_cast<double>(weight_milli);
  slot.virtual_ns.store(slot.virtual_ns.load(kRelaxed) + static_cast<int64_t>(weighted_ns),
                        kRelaxed);
  slot.heartbeat_ns.store(now_ns, kRelaxed);
}

void Turn::Release(bool continuing) {
  if (lane_ == LaneId()) return;
  const bool held = Holds();
  if (held) BookService(clock_.MonotonicNanos());
  SetPhase(own(), continuing ? shm::Phase::kWaiting : shm::Phase::kLoading);
  if (!held) {
    SetReady(continuing);
    return;
  }
  // The flag before the decision, so that the decision and those of others count us in or out.
  if (continuing) {
    own().flags.fetch_or(shm::kReady);  // seq_cst: Note [No lost turn]
  } else {
    own().flags.fetch_and(~static_cast<uint32_t>(shm::kReady));  // seq_cst: Note [No lost turn]
  }
  PassTurn(taken_word_.load(kRelaxed),
           SlotId());  // relaxed: our own store; a stale word fails the exchange
}

void Turn::SetLearning(bool learning) {
  // relaxed: an input of decisions, right for any recent value
  if (learning) {
    own().flags.fetch_or(shm::kLearning, kRelaxed);
  } else {
    own().flags.fetch_and(~static_cast<uint32_t>(shm::kLearning), kRelaxed);
  }
}

sched::TurnDecision Turn::Decide(uint64_t word, absl::Span<const sched::TurnMember> members,
                                 int64_t now_ns) const {
  const shm::LaneSlot& lane = slot();
  const int holder = TurnWord::Holder(word);
  sched::TurnState state;
  if (holder >= 0) state.holder = SlotId(holder);
  state.now = absl::Nanoseconds(now_ns);
  // relaxed: parameters and times, each right by itself
  state.quantum = absl::Nanoseconds(lane.quantum_ns.load(kRelaxed));
  state.served_since_grant = absl::Nanoseconds(now_ns - lane.granted_ns.load(kRelaxed));
  const auto policy = static_cast<sched::TurnPolicyId>(lane.policy.load(kRelaxed));
  return sched::NextTurn(policy, members, state);
}

bool Turn::PassTurn(uint64_t word, SlotId excluded) {
  shm::LaneSlot& lane = slot();
  bool moved = false;
  // Bounded: a second round follows only when a member withdrew or became ready between decision
  // and exchange.
  for (int round = 0; round < shm::kSlotCount; ++round) {
    Members members;
    GatherMembers(device_.table(), lane_, excluded, members);
    const int64_t now_ns = clock_.MonotonicNanos();
    const int holder = TurnWord::Holder(word);
    const sched::TurnDecision decision = Decide(word, members, now_ns);
    if (!decision.next && holder < 0) return moved;
    const bool kept = decision.next && decision.next->value() == holder;
    if (!kept) {
      // Before the exchange, which publishes them: nobody sees a new holder with an old time. If
      // the exchange fails they are a little too new, which only delays a verdict of silence.
      lane.granted_ns.store(now_ns, kRelaxed);
      lane.released_ns.store(now_ns, kRelaxed);
    }
    const uint64_t next =
        TurnWord::Grant(word, decision.next ? decision.next->value() : TurnWord::kNobody);
    // seq_cst: releases our pages and service to the next holder; Note [No lost turn]
    if (!lane.turn.compare_exchange_strong(word, next)) return moved;
    moved = true;
    if (!kept && decision.next && *decision.next != self_) device_.Wake(*decision.next);
    if (!kept) lane.handovers.fetch_add(1, kRelaxed);  // relaxed: a statistic
    last_reason_ = decision.reason;
    NoteStartTag(next);
    if (Resolved(next, excluded)) return true;
    word = next;
  }
  return moved;
}

void Turn::NoteStartTag(uint64_t word) {
  const int holder = TurnWord::Holder(word);
  if (holder < 0) return;
  const shm::JobSlot& granted = device_.slot(SlotId(holder));
  // relaxed: inputs of later decisions, each right by itself
  slot().virtual_ns.store(granted.virtual_ns.load(kRelaxed), kRelaxed);
  slot().rounds.store(granted.rounds.load(kRelaxed), kRelaxed);
}

bool Turn::Resolved(uint64_t word, SlotId excluded) {
  const int next = TurnWord::Holder(word);
  if (next < 0) return !AnyReady(device_.table(), lane_, excluded);
  return (device_.slot(SlotId(next)).flags.load() & shm::kReady) !=
         0;  // seq_cst: Note [No lost turn]
}

void Turn::CheckHolder() {
  const uint64_t word =
      slot().turn.load(std::memory_order_acquire);  // acquire: its times belong to it
  const int64_t now_ns = clock_.MonotonicNanos();
  watch_.Observe(word, now_ns);
  const int holder = TurnWord::Holder(word);
  if (holder < 0 || holder == self_.value()) return;
  if (watch_.HolderGone(device_, lane_)) {
    Log(LogLevel::kInfo, absl::StrCat("event=holder_gone lane=", lane_.value(), " slot=", holder));
    PassTurn(word, SlotId(holder));
    device_.ReapDead();
  } else if (!TurnWord::Taken(word) && watch_.Unchanged(now_ns) >= kTakeGrace) {
    Log(LogLevel::kInfo,
        absl::StrCat("event=turn_passed_over lane=", lane_.value(), " slot=", holder));
    PassOver(word);
  }
}

bool Turn::PassOver(uint64_t word) {
  const SlotId holder(TurnWord::Holder(word));
  if (holder == SlotId(-1) || !PassTurn(word, holder)) return false;
  // After the exchange: it was not ready to run, whatever its flag says; it sets the flag when it
  // asks again.
  device_.slot(holder).flags.fetch_and(
      ~static_cast<uint32_t>(shm::kReady));  // seq_cst: Note [No lost turn]
  return true;
}

absl::Duration Turn::HolderSilence(uint64_t* word_out) const {
  if (word_out != nullptr) *word_out = 0;
  if (lane_ == LaneId()) return absl::ZeroDuration();
  const uint64_t word =
      slot().turn.load(std::memory_order_acquire);  // acquire: its times belong to it
  if (word_out != nullptr) *word_out = word;
  const int holder = TurnWord::Holder(word);
  if (holder < 0 || holder == self_.value() || !TurnWord::Taken(word)) return absl::ZeroDuration();
  // relaxed: times, each right by itself
  const int64_t last_ns = std::max(device_.slot(SlotId(holder)).heartbeat_ns.load(kRelaxed),
                                   slot().granted_ns.load(kRelaxed));
  return absl::Nanoseconds(std::max<int64_t>(clock_.MonotonicNanos() - last_ns, 0));
}

void Turn::RecordIteration(absl::Duration took) {
  shm::JobSlot& slot = own();
  // relaxed: only the owner writes them; the exchange of the turn word publishes them to the next
  // decision
  slot.last_iteration_ns.store(absl::ToInt64Nanoseconds(took), kRelaxed);
  slot.iterations.store(slot.iterations.load(kRelaxed) + 1, kRelaxed);
  slot.rounds.store(slot.rounds.load(kRelaxed) + 1, kRelaxed);
}

void Turn::Excuse(absl::Duration stood_still) {
  hold_start_ns_ += absl::ToInt64Nanoseconds(stood_still);
}

void Turn::SetRemaining(absl::Duration remaining) {
  const int64_t ns = remaining < absl::ZeroDuration() ? -1 : absl::ToInt64Nanoseconds(remaining);
  own().remaining_ns.store(ns, kRelaxed);  // relaxed: one number
}

}  // namespace tide::lane

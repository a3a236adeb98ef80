// One process's place in a lane: it waits for the turn, holds it for an iteration and passes it on.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "base/ids.h"
#include "lane/holder_watch.h"
#include "sched/turn_policy.h"
#include "shm/device_file.h"

namespace tide::lane {

/// How often a waiting process looks after the holder even when nobody wakes it.
inline constexpr absl::Duration kTick = absl::Milliseconds(100);
/// How long a granted turn may lie untaken before a waiter passes it over. Nothing is lost by that:
/// who has not taken it has not touched scratch pages. A wake-up takes under 20 ms even with eight
/// jobs on two cores.
inline constexpr absl::Duration kTakeGrace = absl::Milliseconds(250);

/// All may be left as they are; the functions run in the waiting thread, without any lock held.
struct WaitHooks {
  std::function<void()> on_wake;  // the wake word changed and it was not the turn, or a tick passed
  std::function<bool()> cancelled;  // asked before each sleep: Ctrl-C, SIGTERM, a stop order
  std::function<void()> on_park;    // once, before a gang's follower may be held
  absl::Duration tick = kTick;      // longer only in tests that prove that no wake-up is lost
};

/// Owner of the lane fields of one slot. Join, Leave, Acquire, Release, SetReady and
/// RecordIteration belong to one thread at a time; Holds, epoch and HolderSilence may be called
/// from any while the membership lasts. Borrowed: device and clock outlive it.
///
///   while (training) { turn.Acquire(hooks); iterate(); turn.RecordIteration(took);
///   turn.Release(more); }
class Turn {
 public:
  Turn(shm::DeviceFile& device, SlotId self, Clock& clock);
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  ~Turn();  // leaves, unless this is a forked child's copy

  /// Becomes a member, leaving another lane first. The first member of an empty lane sets its
  /// policy and quantum from the options lane.policy and lane.quantum_ms. Errors: InvalidArgument
  /// (lane, weight outside [0.001, 1000000], unknown policy), DeadlineExceeded (the device table is
  /// locked).
  absl::Status Join(LaneId lane, double weight = 1.0,
                    sched::Priority priority = sched::Priority::kNormal);
  /// Passes the turn on if it is held and gives up the membership. Idempotent.
  void Leave();

  /// Waits until the turn is ours; at once when it is already. Passes a dead holder's turn on while
  /// it waits. Errors: Cancelled, FailedPrecondition without a lane. After OK compare
  /// Scratch::Stale before touching pages.
  absl::Status Acquire(const WaitHooks& hooks = {});

  /// Ends the hold: books the service and passes the turn by the lane's policy. `continuing`: the
  /// next Acquire follows soon (its batch is there), so this process takes part in the decision and
  /// may keep the turn. After it scratch pages belong to others. Without the turn it only sets
  /// readiness: a process that was passed over (stopped for too long) passes nothing on.
  void Release(bool continuing);

  /// Says whether this member's lifetimes are still being learnt (sched::TurnMember::learning).
  void SetLearning(bool learning);

  /// Books a finished iteration; before Release, so that the decision sees it.
  void RecordIteration(absl::Duration took);
  /// Time of this hold in which the process stood still because somebody else had to be given way
  /// to: no service.
  void Excuse(absl::Duration stood_still);
  /// Predicted service until the job ends; negative: unknown (srtf).
  void SetRemaining(absl::Duration remaining);
  void SetShare(double weight, sched::Priority priority);

  /// The loader's word: the next batch is there (true) or must be waited for. Not ready passes an
  /// untaken turn on.
  void SetReady(bool ready);

  /// Whether this process has the turn and has taken it, by the table's own word.
  bool Holds() const;
  /// Fencing epoch of the last turn taken; 0 before the first.
  uint64_t epoch() const;
  /// Whether the turn is this process's, taken or not.
  bool Granted() const;
  /// Of a process that waits: who has taken the turn, if it would be this process's next by the
  /// lane's policy. A guess: until the turn passes the policy may see others.
  std::optional<SlotId> HolderBefore() const;
  LaneId lane() const { return lane_; }
  SlotId self() const { return self_; }
  /// Why the last turn that this process passed on went where it went.
  const char* last_reason() const { return last_reason_; }

  /// How long the holder (not this process, and with the turn taken) has passed no boundary; zero
  /// when there is none. `word`, if not null, receives the turn word that was looked at.
  absl::Duration HolderSilence(uint64_t* word = nullptr) const;
  /// Passes the turn on from the holder named in `word`, which stops counting as ready until it
  /// asks again. False when the turn has moved meanwhile. For a holder that has taken the turn only
  /// after the others left its scratch (Scratch::LeaveStuckHolder).
  bool PassOver(uint64_t word);

 private:
  shm::JobSlot& own() { return device_.slot(self_); }
  const shm::JobSlot& own() const { return device_.slot(self_); }
  shm::LaneSlot& slot() { return device_.lane(lane_); }
  const shm::LaneSlot& slot() const { return device_.lane(lane_); }

  absl::Status SetUpEmptyLane(shm::LaneSlot& lane);
  void BecomeReady();
  void Withdraw();
  bool TryTake();
  /// Who of `members` is next after `word`, by the lane's policy.
  sched::TurnDecision Decide(uint64_t word, absl::Span<const sched::TurnMember> members,
                             int64_t now_ns) const;
  bool PassTurn(uint64_t word, SlotId excluded);
  void NoteStartTag(uint64_t word);
  bool Resolved(uint64_t word, SlotId excluded);
  void CheckHolder();
  void BookService(int64_t now_ns);

  // constant after construction
  shm::DeviceFile& device_;
  const SlotId self_;
  Clock& clock_;
  const pid_t pid_;

  // self-synchronised: written by the owning thread, read by any
  std::atomic<uint64_t> taken_word_{0};  // the turn word we took last

  // of the owning thread
  LaneId lane_;
  int64_t hold_start_ns_ = 0;
  int64_t last_check_ns_ = 0;
  uint32_t handled_wake_ = 0;
  HolderWatch watch_;
  const char* last_reason_ = "";
};

}  // namespace tide::lane

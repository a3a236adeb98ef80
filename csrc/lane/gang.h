// Processes of one job that have turns together: the leader takes them, the others follow.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/ids.h"
#include "lane/turn.h"
#include "shm/device_file.h"

namespace tide::lane {

/// A process's place in its gang.
struct GangPlace {
  uint64_t key = 0;  // what all its processes and no others have; 0: no gang yet
  int rank = 0;      // 0 leads
  int size = 1;      // processes in all, at most kGangMax
  bool operator==(const GangPlace&) const = default;
};
inline constexpr int kGangMax = 64;

/// How long the ranks wait for each other at the first boundary of a gang that meets.
inline constexpr absl::Duration kMeetPatience = absl::Seconds(3);

/// Closes in vain after which the turn passes all the same, without the followers.
inline constexpr int kVainClosesMax = 3;

/// How long a gang waits for its ranks at a boundary before it goes on as it was: half a second, or
/// four of the process's own iterations.
absl::Duration GangPatience(absl::Duration iteration);

/// Owner of the gang fields of one slot. One thread. Borrowed: device and clock outlive it.
///
/// Note [Gangs]
/// The leader alone is a member of the lane for turns. A step is an optimizer step that all
/// processes make together, so nobody ends step k before all have begun it. The leader, before step
/// k, says that all stop before step k + 1: nobody can have passed that place. There each follower
/// parks, and the leader holds those that are parked, one compare-and-swap each; it gives the turn
/// away when it holds all, and lets them go when it has the turn again. A parked follower that is
/// not held goes on by itself after its patience, by a compare-and-swap as well, so exactly one of
/// "held" and "gone on" happens. Neither side ever waits for the other without an end: a leader
/// waits for its turn, which the lane's other members pass on without needing this job.
///
/// Memory does not depend on any of that. Before it touches its seat's pages a follower sets
/// kOnSeat and then looks for another with it (sequentially consistent, so of two at least one sees
/// the other), and then stays on memory of its own: a leader may die, or give the turn away, while
/// its followers are in an iteration.
///
/// Note [A gang stands]
/// A gang one of whose processes is paused takes no turn: it would keep it in a collective. Who is
/// to be paused says so (kStands in its flags), the leader has all stop, and only then memory
/// moves. A held follower moves it when it has set its flag and then finds the leader's set; the
/// leader clears its own and then looks for others' before it asks for the turn, and looks again
/// before it lets them go. All of it is sequentially consistent, so that whoever is let go has not
/// moved anything.
///
/// Note [A gang meets]
/// Ranks that begin together stop before their first step, so that already its memory is used in
/// turn: the leader's first close is said when its place is published, and a follower that is there
/// earlier waits until it is. Where somebody does not come in time all go on apart, and the gang
/// forms at a later step.
class Gang {
 public:
  /// Publishes the place. `meet`: the step before which all meet, -1 for a gang that forms later.
  Gang(shm::DeviceFile& device, SlotId self, Clock& clock, GangPlace place, int64_t meet = -1);
  Gang(const Gang&) = delete;
  Gang& operator=(const Gang&) = delete;
  ~Gang();  // lets followers go, unless this is a forked child's copy

  bool leader() const { return place_.rank == 0; }
  /// It has not been at its first boundary with the others yet.
  bool meets() const { return meets_; }
  const GangPlace& place() const { return place_; }

  // Of the leader.

  enum class Closing {
    kOpen,    // go on as before
    kClosed,  // all followers are held
    kApart,   // they could not be stopped for long: give the turn away without them
  };
  /// Between two iterations, before `step`: has all stop before the next one or, where that was
  /// said, waits until they have, at most `patience`. Errors: Cancelled.
  absl::StatusOr<Closing> Close(int64_t step, absl::Duration patience, const WaitHooks& hooks);
  /// A close has been said and is not done yet.
  bool closing() const { return announced_step_ >= 0; }
  /// And the others stop at the boundary before `step`.
  bool ClosesBefore(int64_t step) const { return closing() && step >= announced_step_; }
  /// While the leader waits for a turn that it gave away without a close: holds those that have
  /// come to a boundary meanwhile, once all have.
  void HoldWhoWaits();
  /// The turn is here: followers go on, on their seats. `again`: all stop before the step after
  /// `step`.
  void Open(int64_t step, bool again);
  /// Lets all followers go on memory of their own; the gang has to close anew before it has a turn.
  void Dissolve();
  /// Whether a follower has said that it stands.
  bool SomebodyStands();
  /// Before the leader asks for the turn: whether it must not, because somebody stands. Those may
  /// move their memory from then on, until an answer of false.
  bool Stands();

  // Of a follower.

  /// Between two iterations, before `step`: parks where the leader has said so, or has no turn,
  /// until it goes on.
  /// Errors: Cancelled; the process is apart from its gang then.
  absl::Status Follow(int64_t step, absl::Duration patience, const WaitHooks& hooks);
  /// The leader's lane while the follower may run on its seat, else LaneId().
  LaneId lane() const;
  /// Takes the seat that the slot has joined (its lane field) for an iteration. False: somebody
  /// else has not left it yet.
  bool TakeSeat();
  void LeaveSeat();
  /// Whether its memory may be moved away now and the gang does not run on without it. False for
  /// one that is apart: nothing is known of its gang then.
  bool MayStand();
  bool apart() const;

  // Of both.

  /// Says whether this process is paused or is to be.
  void SayStands(bool stands);
  /// The followers are held, the gang has no turn.
  bool closed() const;

 private:
  shm::JobSlot& own() { return device_.slot(self_); }
  const shm::JobSlot& own() const { return device_.slot(self_); }
  bool Belongs(const shm::JobSlot& slot) const;
  bool Complete() const;
  void Announce(int64_t step);
  bool LookForStanding();
  bool HoldAll(bool look_for_dead);
  void TakeBack();
  Closing Failed();
  absl::Status AwaitLeader(absl::Duration patience, const WaitHooks& hooks);
  void Release(shm::GangState from, shm::GangState to);
  const shm::JobSlot* Leader();
  bool LeaderWaits(const shm::JobSlot& leader) const;
  bool LeaderGone(const shm::JobSlot& leader);
  bool Exchange(shm::GangState from, shm::GangState to);
  void GoApart();
  void WakeOthers();

  shm::DeviceFile& device_;
  const SlotId self_;
  Clock& clock_;
  const GangPlace place_;
  const pid_t pid_;
  bool meets_;

  // of the leader
  bool formed_ = false;          // it has closed once
  int64_t announced_step_ = -1;  // before which all are to stop
  int64_t announced_ns_ = 0;
  int64_t retry_ns_ = 0;
  int vain_closes_ = 0;
  bool closed_ = false;
  bool somebody_stands_ = false;  // when it looked last
  uint32_t looked_word_ = 0;      // of its wake word, which followers change when they say it

  // of a follower
  int64_t given_up_step_ = -1;  // the close that it waited for in vain
  SlotId leader_{-1};
  shm::PidFd leader_fd_;
  int32_t leader_pid_ = 0;
};

}  // namespace tide::lane

// One process's membership: generations, the vote of each step, and what the death of another does.
#pragma once

#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "elastic/group.h"

namespace tide::elastic {

/// How a wait for a step ended.
enum class Vote { kCommitted, kRegroup };

struct WaitOptions {
  absl::Duration tick = absl::Milliseconds(5);  // how often the dead are looked for
  absl::Duration frozen = absl::Seconds(10);    // a stopped peer is killed after this
  absl::Duration deadline = absl::Minutes(10);  // the most that any wait may take
  absl::Duration found = absl::Seconds(60);     // wait for the processes of the beginning
  std::function<absl::Status()> interrupt;      // asked at each tick
};

/// A slot of the group. One thread. Borrowed: the group outlives it.
///
/// Note [One vote a step]
/// A step is committed when every member of its generation has published its partial sums. These
/// and the contexts lie in shared memory and survive their writer, so from then on each survivor
/// can finish the step alone. A member that died first has not published for good, so all survivors
/// see the same: they agree on the next generation by one compare-and-swap and repeat the step.
class Member {
 public:
  Member(Group& group, Clock& clock, WaitOptions options)
      : group_(group), clock_(clock), options_(std::move(options)) {}
  Member(const Member&) = delete;
  Member& operator=(const Member&) = delete;
  ~Member();  // leaves

  /// Takes a free slot, or one that a dead member leaves; waits for that until the others have
  /// regrouped. Errors: ResourceExhausted.
  absl::Status Claim();
  /// Stands by until a generation has this process, and enters it. False: the training is over.
  absl::StatusOr<bool> Stand();
  /// Enters the generation that begins at `step`, if one does. Returns whether this process goes
  /// on. After a regroup, call it with the step that has to be repeated.
  absl::StatusOr<bool> Advance(uint64_t step);

  /// Waits until all that might still read this process's area of the step before `step` have.
  absl::Status AwaitReaders(uint64_t step);
  /// Says that the partial sums of `step` are complete; the leader decides the next size first.
  void Publish(uint64_t step, bool last);
  /// Waits for the others' votes on `step`.
  absl::StatusOr<Vote> Await(uint64_t step);
  /// Waits until `rank` has summed its shard of `step`. False: it died first.
  absl::StatusOr<bool> AwaitShard(int rank, uint64_t step);
  void ShardDone(uint64_t step);
  /// Says that the sums of `step` have been read.
  void Consume(uint64_t step);

  /// Whether this process must hand the state to joiners of the generation it has just entered.
  bool OwesState() const;
  bool NeedsState() const;
  /// Waits for the state of this generation. False: its owner died, Advance again.
  absl::StatusOr<bool> AwaitState(uint64_t step);
  void StateReceived();
  void StateComplete(uint64_t bytes);

  /// Whether the job is paused before `step`. All members of a generation see the same: the leader
  /// has written it before its vote on the step before. May turn to false at any time.
  bool PauseDue(uint64_t step) const;
  /// Whether a generation that this process has not entered begins at `step` or before: Advance.
  bool RegroupDue(uint64_t step) const;
  /// Waits at the boundary before `step` until the job is resumed, its limit is not `limit` any
  /// more or RegroupDue (a joiner may need this one's model); the first call says that this process
  /// is paused, the last one that it is not.
  absl::Status AwaitOrders(uint64_t step, uint64_t limit);
  /// Whether somebody wishes the job paused.
  bool PauseWanted() const;
  /// Says that this process is paused while it waits in the middle of a step, as all others do.
  void SayPaused(bool paused);
  /// Something outside of the job holds this process: whoever waits for it waits longer.
  void Hold(bool held);
  /// What came of following the limit `word`.
  void LimitDone(uint64_t word, uint64_t smallest, uint64_t moved);

  /// Gives the slot up. Idempotent.
  void Leave();

  uint32_t generation() const { return generation_; }
  int slot() const { return slot_; }
  int rank() const { return rank_; }
  const std::vector<int>& slots() const { return slots_; }  // by rank
  uint64_t first_step() const;

 private:
  struct Peer {
    int slot;
    ProcessHandle process;   // empty when it was dead already
    int64_t looked_ns = 0;   // when it was looked at for being stopped
    int64_t stopped_ns = 0;  // since when it is, 0: it is not
  };
  MemberSlot& own() { return group_.member(slot_); }
  uint64_t word(uint32_t generation) const;
  absl::Status Enter(uint32_t generation);
  bool Dead(Peer& peer);
  void FreezeCheck(Peer& peer);
  Peer* Find(int slot);
  bool Propose(uint64_t step);
  void DecidePause(uint64_t step);
  bool SomebodyHeld() const;
  absl::Status WaitFor(const std::function<bool()>& done, const char* what);
  bool TryClaim();
  bool Reusable(int slot) const;
  uint32_t ReadyMask() const;
  void Found(uint32_t generation, absl::Duration waited);
  uint32_t FindGeneration(absl::Duration waited);
  bool AnyRuns(uint32_t members) const;
  /// Whether a process among these slots has the model and has not left.
  bool AnyWithModel(uint32_t among) const;
  /// For a process that is left out before `step`, when all who stay have died and had not got any
  /// further: the model goes on with those left out. Their generation; 0: leave.
  uint32_t TakeOver(uint64_t step);

  Group& group_;
  Clock& clock_;
  const WaitOptions options_;
  int slot_ = -1;
  int rank_ = -1;
  uint32_t generation_ = 0;
  std::vector<int> slots_;   // members of the generation
  std::vector<Peer> peers_;  // members of this generation and the one before, without this process
};

/// The members of the next generation: the present ones, fewer or more towards `target`. Highest
/// slots leave first; of those that are ready the lowest come first.
uint32_t NextMembers(uint32_t members, uint32_t ready, uint32_t target);

}  // namespace tide::elastic

// Votes, generations and the dead.
#include "elastic/member.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/log.h"
#include "base/status.h"

namespace tide::elastic {
namespace {

/// How often a peer that is waited for is looked at for being stopped: reads a file of /proc.
constexpr absl::Duration kStoppedCheck = absl::Milliseconds(100);

constexpr uint32_t Bit(int slot) { return 1u << slot; }

bool Runs(const MemberSlot& slot) { return ProcessRuns(slot.pid.load(), slot.start_time.load()); }

bool Is(const MemberSlot& slot, MemberState state) {
  return slot.state.load() == static_cast<uint32_t>(state);
}

}  // namespace

uint32_t NextMembers(uint32_t members, uint32_t ready, uint32_t target) {
  ready &= ~members;
  while (std::popcount(members) > static_cast<int>(target)) members &= ~std::bit_floor(members);
  while (std::popcount(members) < static_cast<int>(target) && ready != 0) {
    members |= ready & -ready;
    ready &= ready - 1;
  }
  return members;
}

Member::~Member() { Leave(); }

uint64_t Member::word(uint32_t generation) const {
  return group_.header().generations[generation].load();
}

uint64_t Member::first_step() const { return GenerationWord::Step(word(generation_)); }

bool Member::Reusable(int slot) const {
  const GroupHeader& header = group_.header();
  const MemberSlot& found = header.members[slot];
  if (!Is(found, MemberState::kLeft) && Runs(found)) return false;
  const uint32_t latest = header.latest.load();
  if (header.finished.load() != 0) return true;
  // A member's place stays its own, dead as it is, or somebody else would go on in its name.
  const uint32_t members = GenerationWord::Members(word(latest == 0 ? 0 : latest - 1));
  if ((members & Bit(slot)) != 0) return false;
  // Whoever is still in an older generation may have to ask what this slot had published.
  for (int other = 0; other < kMembersMax; ++other) {
    const MemberSlot& peer = header.members[other];
    if ((members & Bit(other)) != 0 && peer.entered.load() < latest && Runs(peer)) return false;
  }
  return true;
}

bool Member::TryClaim() {
  for (const bool fresh : {true, false}) {
    for (int slot = 0; slot < kMembersMax; ++slot) {
      MemberSlot& candidate = group_.member(slot);
      uint32_t state = candidate.state.load();
      if (fresh ? state != static_cast<uint32_t>(MemberState::kFree) : !Reusable(slot)) continue;
      if (!candidate.state.compare_exchange_strong(state,
                                                   static_cast<uint32_t>(MemberState::kClaiming)))
        continue;
      candidate.has_state.store(0);
      candidate.entered.store(0);
      candidate.published.store(0);
      candidate.shard_done.store(0);
      candidate.consumed.store(0);
      candidate.paused.store(0);
      candidate.held.store(0);
      candidate.limit_done.store(0);
      candidate.start_time.store(OwnStartTime());
      candidate.pid.store(OwnPid());
      candidate.state.store(static_cast<uint32_t>(MemberState::kBooting));
      slot_ = slot;
      group_.Announce();
      return true;
    }
  }
  return false;
}

absl::Status Member::Claim() {
  Word<uint32_t>& news = group_.header().news;
  const int64_t end_ns = clock_.MonotonicNanos() + absl::ToInt64Nanoseconds(options_.found);
  for (;;) {
    const uint32_t seen = news.load();
    if (TryClaim()) return absl::OkStatus();
    // The place of a dead member is free once the others have regrouped.
    if (options_.interrupt) TIDE_RETURN_IF_ERROR(options_.interrupt());
    if (clock_.MonotonicNanos() > end_ns) {
      return absl::ResourceExhaustedError(
          absl::StrCat("all ", kMembersMax, " places of the job are taken"));
    }
    AwaitChange(news, seen, absl::Milliseconds(20));
  }
}

void Member::Leave() {
  if (slot_ < 0) return;
  own().state.store(static_cast<uint32_t>(MemberState::kLeft));
  slot_ = -1;
  group_.Announce();
}

uint32_t Member::ReadyMask() const {
  uint32_t ready = 0;
  for (int slot = 0; slot < kMembersMax; ++slot) {
    const MemberSlot& member = group_.header().members[slot];
    if (Is(member, MemberState::kReady) && Runs(member)) ready |= Bit(slot);
  }
  return ready;
}

void Member::Found(uint32_t generation, absl::Duration waited) {
  GroupHeader& header = group_.header();
  const uint32_t ready = ReadyMask();
  const uint32_t target = std::min(header.target.load(), header.geometry.workers);
  if (std::popcount(ready) < static_cast<int>(target) && waited < options_.found) return;
  const uint32_t members = NextMembers(0, ready, target);
  const uint64_t founded = GenerationWord::Make(members, std::countr_zero(members), 0);
  uint64_t found = word(generation);
  // The dead may have planned the size of the second step: that plan is void.
  while (found == 0 || GenerationWord::Step(found) > 0) {
    if (header.generations[generation].compare_exchange_weak(found, founded)) return;
  }
}

bool Member::AnyRuns(uint32_t members) const {
  for (int slot = 0; slot < kMembersMax; ++slot)
    if ((members & Bit(slot)) != 0 && Runs(group_.header().members[slot])) return true;
  return false;
}

uint32_t Member::FindGeneration(absl::Duration waited) {
  const GroupHeader& header = group_.header();
  const uint32_t latest = header.latest.load();
  uint32_t generation = latest == 0 ? 0 : latest - 1;
  if (latest == 0 && word(0) == 0) Found(0, waited);
  // All of it died before the first step was done: nothing is lost, others begin. Whether it was
  // done is asked after the look at the processes, when none of them can do it any more.
  while (word(generation) != 0 && GenerationWord::Step(word(generation)) == 0 &&
         !AnyRuns(GenerationWord::Members(word(generation))) && header.steps.load() == 0) {
    Found(generation + 1, waited);
    const uint64_t next = word(generation + 1);
    if (next == 0 || GenerationWord::Step(next) > 0) break;
    ++generation;
  }
  return generation;
}

absl::StatusOr<bool> Member::Stand() {
  GroupHeader& header = group_.header();
  own().state.store(static_cast<uint32_t>(MemberState::kReady));
  group_.Announce();
  const int64_t begin_ns = clock_.MonotonicNanos();
  for (;;) {
    const uint32_t seen = header.news.load();
    if (header.finished.load() != 0) return false;
    const uint32_t generation =
        FindGeneration(absl::Nanoseconds(clock_.MonotonicNanos() - begin_ns));
    const uint64_t found = word(generation);
    if ((GenerationWord::Members(found) & Bit(slot_)) != 0) {
      TIDE_RETURN_IF_ERROR(Enter(generation));
      return true;
    }
    if (options_.interrupt) TIDE_RETURN_IF_ERROR(options_.interrupt());
    // Standing by has no deadline of its own: it ends with the training or with the last member.
    const uint32_t latest = header.latest.load();
    if (latest == generation + 1 && header.steps.load() > 0 &&
        !AnyRuns(GenerationWord::Members(found)) && !AnyWithModel(~0u)) {
      // The last ones may have gone because the training is over: they say so before they go.
      if (header.finished.load() != 0) return false;
      if (header.latest.load() == latest)
        return absl::UnavailableError("all processes that had the model have died");
    }
    AwaitChange(header.news, seen, std::max(options_.tick, absl::Milliseconds(20)));
  }
}

absl::Status Member::Enter(uint32_t generation) {
  GroupHeader& header = group_.header();
  const uint32_t members = GenerationWord::Members(word(generation));
  uint32_t readers = members;
  if (generation > 0) readers |= GenerationWord::Members(word(generation - 1));
  for (const Peer& peer : peers_) readers |= Bit(peer.slot);
  generation_ = generation;
  slots_.clear();
  peers_.clear();
  for (int slot = 0; slot < kMembersMax; ++slot) {
    if ((members & Bit(slot)) != 0) {
      if (slot == slot_) rank_ = static_cast<int>(slots_.size());
      slots_.push_back(slot);
    }
    if (slot == slot_ || (readers & Bit(slot)) == 0) continue;
    const MemberSlot& peer = header.members[slot];
    ProcessHandle process = ProcessHandle::Open(peer.pid.load(), peer.start_time.load());
    if (process || (members & Bit(slot)) != 0) peers_.push_back({slot, std::move(process)});
  }
  // Of the first step's generations the source has its own model, whoever it is (see Propose).
  if (GenerationWord::Source(word(generation)) == slot_) own().has_state.store(1);
  own().entered.store(generation + 1);
  uint32_t latest = header.latest.load();
  while (latest < generation + 1 && !header.latest.compare_exchange_weak(latest, generation + 1)) {
  }
  group_.Announce();
  return absl::OkStatus();
}

bool Member::AnyWithModel(uint32_t among) const {
  for (int slot = 0; slot < kMembersMax; ++slot) {
    const MemberSlot& member = group_.header().members[slot];
    if ((among & Bit(slot)) != 0 && member.has_state.load() != 0 &&
        !Is(member, MemberState::kLeft) && Runs(member))
      return true;
  }
  return false;
}

uint32_t Member::TakeOver(uint64_t step) {
  GroupHeader& header = group_.header();
  for (uint32_t last = generation_ + 1; last + 2 < kGenerationsMax;) {
    uint64_t after = word(last + 1);
    if (after != 0 && GenerationWord::Step(after) <= step) {
      ++last;
      continue;
    }
    if ((GenerationWord::Members(word(last)) & Bit(slot_)) != 0) return last;
    // Steps are counted by those who stayed: asked after the look at them.
    if (AnyWithModel(GenerationWord::Members(word(last))) || header.steps.load() > step) return 0;
    uint32_t living = Bit(slot_);
    for (const int slot : slots_) {
      Peer* peer = Find(slot);
      if (peer != nullptr && !Dead(*peer) && AnyWithModel(Bit(slot))) living |= Bit(slot);
    }
    // What the dead had planned for a later step is void.
    header.generations[last + 1].compare_exchange_strong(after,
                                                         GenerationWord::Make(living, slot_, step));
  }
  return 0;
}

absl::StatusOr<bool> Member::Advance(uint64_t step) {
  for (;;) {
    if (generation_ + 2 >= kGenerationsMax)
      return absl::ResourceExhaustedError("the job has changed its size too often; restart it");
    const uint64_t next = word(generation_ + 1);
    if (next == 0 || GenerationWord::Step(next) > step) return true;
    if ((GenerationWord::Members(next) & Bit(slot_)) == 0) {
      if (const uint32_t own_again = TakeOver(step); own_again != 0) {
        TIDE_RETURN_IF_ERROR(Enter(own_again));
        continue;
      }
      // Somebody who stays must enter first, or nobody would know that the generation holds.
      uint32_t latest = group_.header().latest.load();
      while (latest < generation_ + 2 &&
             !group_.header().latest.compare_exchange_weak(latest, generation_ + 2)) {
      }
      Leave();
      return false;
    }
    TIDE_RETURN_IF_ERROR(Enter(generation_ + 1));
  }
}

Member::Peer* Member::Find(int slot) {
  for (Peer& peer : peers_)
    if (peer.slot == slot) return &peer;
  return nullptr;
}

bool Member::Dead(Peer& peer) {
  if (!peer.process || peer.process.Dead() || Is(group_.member(peer.slot), MemberState::kLeft))
    return true;
  FreezeCheck(peer);
  return false;
}

void Member::FreezeCheck(Peer& peer) {
  const int64_t now_ns = clock_.MonotonicNanos();
  if (now_ns - peer.looked_ns < absl::ToInt64Nanoseconds(kStoppedCheck)) return;
  peer.looked_ns = now_ns;
  const MemberSlot& slot = group_.member(peer.slot);
  if (!ProcessIsStopped(slot.pid.load(), slot.start_time.load())) {
    peer.stopped_ns = 0;
    return;
  }
  if (peer.stopped_ns == 0) peer.stopped_ns = now_ns;
  if (now_ns - peer.stopped_ns < absl::ToInt64Nanoseconds(options_.frozen)) return;
  // It would hold all others up for ever, and cannot be fenced off: its areas are ours too.
  Log(LogLevel::kWarning, absl::StrCat("event=frozen_peer_killed slot=", peer.slot));
  peer.process.Kill();
}

bool Member::Propose(uint64_t step) {
  uint32_t living = Bit(slot_);
  int source = own().has_state.load() != 0 ? slot_ : -1;
  for (const int slot : slots_) {
    Peer* peer = Find(slot);
    if (peer == nullptr || Dead(*peer)) continue;
    living |= Bit(slot);
    if (group_.member(slot).has_state.load() != 0 && (source < 0 || slot < source)) source = slot;
  }
  // Before anything has been trained every process of the beginning has a model: its own.
  if (source < 0 && step == 0) source = std::countr_zero(living);
  if (source < 0) return false;
  Word<uint64_t>& next = group_.header().generations[generation_ + 1];
  uint64_t found = next.load();
  // A plan for the step after this one is void: this one will be repeated.
  while (found == 0 || GenerationWord::Step(found) > step) {
    if (next.compare_exchange_weak(found, GenerationWord::Make(living, source, step))) break;
  }
  Log(LogLevel::kInfo, absl::StrCat("event=regroup generation=", generation_ + 1, " step=", step,
                                    " members=", std::popcount(living)));
  group_.Announce();
  return true;
}

absl::Status Member::WaitFor(const std::function<bool()>& done, const char* what) {
  Word<uint32_t>& news = group_.header().news;
  const int64_t patience_ns = absl::ToInt64Nanoseconds(options_.deadline);
  int64_t end_ns = clock_.MonotonicNanos() + patience_ns;
  for (;;) {
    const uint32_t seen = news.load();
    if (done()) return absl::OkStatus();
    if (options_.interrupt) TIDE_RETURN_IF_ERROR(options_.interrupt());
    if (SomebodyHeld()) end_ns = clock_.MonotonicNanos() + patience_ns;
    if (clock_.MonotonicNanos() > end_ns) {
      return absl::DeadlineExceededError(absl::StrCat(
          "waited ", absl::FormatDuration(options_.deadline), " for ", what,
          " of the other processes; TIDE_ELASTIC_DEADLINE_MS allows a longer iteration"));
    }
    AwaitChange(news, seen, options_.tick);
  }
}

absl::Status Member::AwaitReaders(uint64_t step) {
  return WaitFor(
      [&] {
        return std::all_of(peers_.begin(), peers_.end(), [&](Peer& peer) {
          const MemberSlot& slot = group_.member(peer.slot);
          return slot.consumed.load() >= step || slot.has_state.load() == 0 ||
                 Is(slot, MemberState::kLeft) || Dead(peer);
        });
      },
      "the readers");
}

bool Member::SomebodyHeld() const {
  return std::any_of(slots_.begin(), slots_.end(), [&](int slot) {
    return slot != slot_ && group_.member(slot).held.load() != 0;
  });
}

void Member::Publish(uint64_t step, bool last) {
  GroupHeader& header = group_.header();
  if (!last && slots_.front() == slot_) {
    DecidePause(step + 1);
    uint32_t members = 0;
    for (const int slot : slots_) members |= Bit(slot);
    const uint32_t target = std::min(header.target.load(), header.geometry.workers);
    const uint32_t wanted = NextMembers(members, ReadyMask(), target);
    uint64_t undecided = 0;
    if (wanted != members) {
      header.generations[generation_ + 1].compare_exchange_strong(
          undecided, GenerationWord::Make(wanted, slot_, step + 1));
    }
  }
  own().published.store(Stamp(generation_, step));  // seq_cst: after the sums and the plan
  group_.Announce();
}

bool Member::RegroupDue(uint64_t step) const {
  const uint64_t next = word(generation_ + 1);
  return next != 0 && GenerationWord::Step(next) <= step;
}

absl::StatusOr<Vote> Member::Await(uint64_t step) {
  Vote vote = Vote::kCommitted;
  bool lost = false;
  TIDE_RETURN_IF_ERROR(WaitFor(
      [&] {
        bool all = true;
        for (const int slot : slots_) {
          if (slot == slot_) continue;
          Peer* peer = Find(slot);
          const bool dead = peer == nullptr || Dead(*peer);
          // After the look at the process: what a dead one has not published it never will.
          if (group_.member(slot).published.load() >= Stamp(generation_, step)) continue;
          all = false;
          if (dead && !Propose(step)) lost = true;
          if (dead || lost) break;
        }
        if (all) return true;
        vote = Vote::kRegroup;
        const bool regroup = RegroupDue(step);
        if (!regroup && !lost) vote = Vote::kCommitted;
        return regroup || lost;
      },
      "the sums"));
  if (lost) return absl::UnavailableError("all processes that had the model have died");
  if (vote == Vote::kCommitted) {
    uint64_t steps = group_.header().steps.load();
    while (steps < step + 1 && !group_.header().steps.compare_exchange_weak(steps, step + 1)) {
    }
  }
  return vote;
}

absl::StatusOr<bool> Member::AwaitShard(int rank, uint64_t step) {
  const int slot = slots_[static_cast<size_t>(rank)];
  bool there = false;
  TIDE_RETURN_IF_ERROR(WaitFor(
      [&] {
        Peer* peer = Find(slot);
        const bool dead = peer == nullptr || Dead(*peer);
        there = group_.member(slot).shard_done.load() >= Stamp(generation_, step);
        return there || dead;
      },
      "a shard"));
  return there;
}

void Member::ShardDone(uint64_t step) {
  own().shard_done.store(Stamp(generation_, step));
  group_.Announce();
}

void Member::Consume(uint64_t step) {
  own().consumed.store(step + 1);
  group_.Announce();
}

bool Member::NeedsState() const { return group_.header().members[slot_].has_state.load() == 0; }

bool Member::OwesState() const {
  if (GenerationWord::Source(word(generation_)) != slot_) return false;
  return std::any_of(slots_.begin(), slots_.end(),
                     [&](int slot) { return group_.header().members[slot].has_state.load() == 0; });
}

absl::StatusOr<bool> Member::AwaitState(uint64_t step) {
  const int source = GenerationWord::Source(word(generation_));
  bool there = false;
  bool lost = false;
  TIDE_RETURN_IF_ERROR(WaitFor(
      [&] {
        Peer* peer = Find(source);
        const bool dead = peer == nullptr || Dead(*peer);
        there = group_.header().state_stamp.load() >= generation_ + 1;
        if (there) return true;
        if (RegroupDue(step)) return true;
        if (dead) lost = !Propose(step);
        return lost;
      },
      "the model"));
  if (lost) return absl::UnavailableError("all processes that had the model have died");
  return there;
}

void Member::StateReceived() {
  own().consumed.store(first_step());
  own().has_state.store(1);
  group_.Announce();
}

void Member::StateComplete(uint64_t bytes) {
  group_.header().state_bytes.store(bytes);
  group_.header().state_stamp.store(generation_ + 1);  // seq_cst: after the bytes
  group_.Announce();
}

}  // namespace tide::elastic

// Votes, generations and the dead.
#include "elastic/member.h"

#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "base/log.h"
#include "base/status.h"
#include "shm/futex.h"

namespace tide::elastic {
namespace {

/// How often a peer that is waited for is looked at for being stopped: reads a file of /proc.
constexpr absl::Duration kStoppedCheck = absl::Milliseconds(100);

constexpr uint32_t Bit(int slot) { return 1u << slot; }

bool Runs(const MemberSlot& slot) {
  return shm::ProcessAlive(slot.pid.load(), slot.start_time.load());
}

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
  if (latest == 0 || header.finished.load() != 0) return true;
  const uint32_t members = GenerationWord::Members(word(latest - 1));
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
      candidate.start_time.store(shm::StartTime(getpid()));
      candidate.pid.store(getpid());
      candidate.state.store(static_cast<uint32_t>(MemberState::kBooting));
      slot_ = slot;
      group_.Announce();
      return true;
    }
  }
  return false;
}

absl::Status Member::Claim() {
  std::atomic<uint32_t>& news = group_.header().news;
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
    shm::FutexWait(news, seen, absl::Milliseconds(20));
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

bool Member::Found(absl::Duration waited) {
  GroupHeader& header = group_.header();
  const uint32_t ready = ReadyMask();
  const uint32_t target = std::min(header.target.load(), header.geometry.workers);
  if (std::popcount(ready) < static_cast<int>(target) && waited < options_.found) return false;
  const uint32_t members = NextMembers(0, ready, target);
  const int source = std::countr_zero(members);
  uint64_t undecided = 0;
  header.generations[0].compare_exchange_strong(undecided,
                                                GenerationWord::Make(members, source, 0));
  return true;
}

absl::StatusOr<bool> Member::Stand() {
  GroupHeader& header = group_.header();
  own().state.store(static_cast<uint32_t>(MemberState::kReady));
  group_.Announce();
  const int64_t begin_ns = clock_.MonotonicNanos();
  for (;;) {
    const uint32_t seen = header.news.load();
    if (header.finished.load() != 0) return false;
    const absl::Duration waited = absl::Nanoseconds(clock_.MonotonicNanos() - begin_ns);
    const uint32_t latest = header.latest.load();
    if (latest == 0 && word(0) == 0) Found(waited);
    const uint32_t generation = latest == 0 ? 0 : latest - 1;
    if ((GenerationWord::Members(word(generation)) & Bit(slot_)) != 0) {
      if (generation == 0 && GenerationWord::Source(word(0)) == slot_) own().has_state.store(1);
      TIDE_RETURN_IF_ERROR(Enter(generation));
      return true;
    }
    if (options_.interrupt) TIDE_RETURN_IF_ERROR(options_.interrupt());
    // Standing by has no deadline of its own: it ends with the training or with the last member.
    if (latest != 0) {
      const uint32_t members = GenerationWord::Members(word(latest - 1));
      bool anybody = false;
      for (int slot = 0; slot < kMembersMax; ++slot)
        anybody = anybody || ((members & Bit(slot)) != 0 && Runs(header.members[slot]));
      if (!anybody && header.latest.load() == latest)
        return absl::UnavailableError("all processes that had the model have died");
    }
    shm::FutexWait(header.news, seen, std::max(options_.tick, absl::Milliseconds(20)));
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
    auto process = shm::PidFd::Open(peer.pid.load(), peer.start_time.load());
    if (process.ok()) {
      peers_.push_back({slot, *std::move(process)});
    } else if ((members & Bit(slot)) != 0) {
      peers_.push_back({slot, shm::PidFd()});
    }
  }
  own().entered.store(generation + 1);
  uint32_t latest = header.latest.load();
  while (latest < generation + 1 && !header.latest.compare_exchange_weak(latest, generation + 1)) {
  }
  group_.Announce();
  return absl::OkStatus();
}

absl::StatusOr<bool> Member::Advance(uint64_t step) {
  if (generation_ + 2 >= kGenerationsMax)
    return absl::ResourceExhaustedError("the job has changed its size too often; restart it");
  for (;;) {
    const uint64_t next = word(generation_ + 1);
    if (next == 0 || GenerationWord::Step(next) > step) return true;
    if ((GenerationWord::Members(next) & Bit(slot_)) == 0) {
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
  if (!shm::ProcessStopped(slot.pid.load(), slot.start_time.load())) {
    peer.stopped_ns = 0;
    return;
  }
  if (peer.stopped_ns == 0) peer.stopped_ns = now_ns;
  if (now_ns - peer.stopped_ns < absl::ToInt64Nanoseconds(options_.frozen)) return;
  // It would hold all others up for ever, and cannot be fenced off: its areas are ours too.
  Log(LogLevel::kWarning, absl::StrCat("event=frozen_peer_killed slot=", peer.slot));
  syscall(SYS_pidfd_send_signal, peer.process.fd(), SIGKILL, nullptr, 0);
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
  if (source < 0) return false;
  std::atomic<uint64_t>& next = group_.header().generations[generation_ + 1];
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
  std::atomic<uint32_t>& news = group_.header().news;
  const int64_t begin_ns = clock_.MonotonicNanos();
  const int64_t end_ns = begin_ns + absl::ToInt64Nanoseconds(options_.deadline);
  for (;;) {
    const uint32_t seen = news.load();
    if (done()) return absl::OkStatus();
    if (options_.interrupt) TIDE_RETURN_IF_ERROR(options_.interrupt());
    if (clock_.MonotonicNanos() > end_ns) {
      return absl::DeadlineExceededError(absl::StrCat(
          "waited ", absl::FormatDuration(options_.deadline), " for ", what,
          " of the other processes; TIDE_ELASTIC_DEADLINE_MS allows a longer iteration"));
    }
    shm::FutexWait(news, seen, options_.tick);
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

void Member::Publish(uint64_t step, bool last) {
  GroupHeader& header = group_.header();
  if (!last && slots_.front() == slot_) {
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
        const uint64_t next = word(generation_ + 1);
        vote = Vote::kRegroup;
        const bool regroup = next != 0 && GenerationWord::Step(next) <= step;
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
        const uint64_t next = word(generation_ + 1);
        if (next != 0 && GenerationWord::Step(next) <= step) return true;
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

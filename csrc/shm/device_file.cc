// Slots and ledger of a mapped device table.
#include "shm/device_file.h"

#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/atomics.h"
#include "base/log.h"
#include "base/status.h"
#include "shm/futex.h"
#include "shm/process.h"
#include "shm/slot_table.h"

namespace tide::shm {
namespace {

// How often a reservation that collided with another one's undone attempt looks again.
constexpr int kReserveAttempts = 4;

// A reservation stands in somebody's allocation: it does not wait long to look for the dead.
constexpr absl::Duration kReapPatience = absl::Milliseconds(20);

uint32_t Word(SlotState state) { return static_cast<uint32_t>(state); }

std::string NameOf(const JobSlot& slot) {
  return std::string(slot.name, strnlen(slot.name, sizeof(slot.name)));
}

void LeaveLane(DeviceTable& table, SlotId id) {
  // relaxed: who still sees the old lane offers a turn that is passed over
  table.slots[id.value()].lane.store(-1, kRelaxed);
  ForgetMember(table, id);
  VacateTurns(table, id);
}

// Takes the slot out of its lane and its bytes out of the ledger.
Bytes GiveUp(DeviceTable& table, SlotId id) {
  JobSlot& slot = table.slots[id.value()];
  const Bytes held = SlotUsed(slot);
  LeaveLane(table, id);
  for (auto field :
       {&JobSlot::private_bytes, &JobSlot::file_resident_bytes, &JobSlot::outside_bytes,
        &JobSlot::outside_now_bytes, &JobSlot::file_now_bytes}) {
    (slot.*field).store(0);  // seq_cst: part of the ledger's sum
  }
  return held;
}

// Hands the slot of a dead owner to the first of its children that still runs. Under the device
// lock. Returns the bytes given back by that, or nothing when no child runs.
std::optional<Bytes> AdoptSlot(DeviceTable& table, SlotId id) {
  JobSlot& slot = table.slots[id.value()];
  Bytes held_by_children;
  uint64_t heir = 0;
  for (auto& child : slot.children) {
    const uint64_t word = child.load(kRelaxed);  // relaxed: its writer is dead
    const int32_t pid = ChildWord::Pid(word);
    if (word == 0 || !ProcessAlive(pid, ChildWord::StartTime(word))) continue;
    held_by_children += AnonymousBytes(pid);
    if (heir == 0) heir = word;
  }
  if (heir == 0) return std::nullopt;
  const Bytes before = GiveUp(table, id);
  slot.flags.store(kOrphans, kRelaxed);
  slot.demoted_bytes.store(0, kRelaxed);
  slot.pid.store(ChildWord::Pid(heir), kRelaxed);
  slot.start_time.store(ChildWord::StartTime(heir), kRelaxed);
  slot.outside_now_bytes.store(held_by_children.value(), kRelaxed);
  slot.outside_bytes.store(held_by_children.value());  // seq_cst: part of the ledger's sum
  return before - held_by_children;
}

// Gives the slot back. Under the device lock, so that it cannot be claimed before the last word is
// written.
Bytes EmptySlot(DeviceTable& table, SlotId id) {
  const Bytes held = GiveUp(table, id);
  JobSlot& slot = table.slots[id.value()];
  ResetSlot(slot);
  // release: a claimer that sees kFree sees the slot empty
  slot.state.store(Word(SlotState::kFree), std::memory_order_release);
  return held;
}

}  // namespace

absl::StatusOr<FileLock> DeviceFile::Lock(absl::Duration timeout) const {
  return FileLock::Acquire(fd_.get(), timeout);
}

absl::StatusOr<SlotId> DeviceFile::Claim(absl::string_view name) {
  TIDE_ASSIGN_OR_RETURN(const FileLock lock, Lock());
  ReapDeadLocked();
  for (int i = 0; i < kSlotCount; ++i) {
    JobSlot& slot = table_->slots[i];
    uint32_t expected = Word(SlotState::kFree);
    // acquire: pairs with the release that freed the slot
    if (!slot.state.compare_exchange_strong(expected, Word(SlotState::kClaiming),
                                            std::memory_order_acquire, kRelaxed)) {
      continue;
    }
    ResetSlot(slot);
    const pid_t pid = getpid();
    slot.pid.store(pid, kRelaxed);  // relaxed: published by the state below
    slot.start_time.store(StartTime(pid), kRelaxed);
    slot.uid.store(geteuid(), kRelaxed);
    const size_t length = std::min(name.size(), sizeof(slot.name) - 1);
    memcpy(slot.name, name.data(), length);
    slot.state.store(Word(SlotState::kLive),
                     std::memory_order_release);  // release: publishes the identity
    return SlotId(i);
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("all ", kSlotCount, " slots of ", path_,
                   " are in use by live processes; end some jobs or use another TIDE_RUNTIME_DIR"));
}

void DeviceFile::Free(SlotId id) {
  if (!IsLive(slot(id))) return;
  const auto lock = Lock();
  if (!lock.ok()) {
    // Somebody stopped holds the lock. The slot stays ours, holding nothing, until a reaper finds
    // us ended.
    GiveUp(*table_, id);
    return;
  }
  Bytes freed = EmptySlot(*table_, id);
  for (int lane = 0; lane < kScratchCount; ++lane) freed += RecountLane(*table_, LaneId(lane));
  if (freed > Bytes(0)) AnnounceFreed(*table_, freed);
}

void DeviceFile::Retire(SlotId id) {
  if (!IsLive(slot(id))) return;
  const auto lock = Lock();
  slot(id).flags.fetch_or(kLeaving, kRelaxed);  // relaxed: others see it sooner or later
  LeaveLane(*table_, id);
  if (!lock.ok()) return;  // somebody stopped holds it; who reaps us recounts the lanes
  Bytes freed;
  for (int lane = 0; lane < kScratchCount; ++lane) freed += RecountLane(*table_, LaneId(lane));
  AnnounceFreed(*table_, freed);
}

int DeviceFile::ReapDead(absl::Duration timeout) {
  const auto lock = Lock(timeout);
  return lock.ok() ? ReapDeadLocked() : 0;
}

int DeviceFile::ReapDeadLocked() {
  int reaped = 0;
  Bytes freed;
  for (int i = 0; i < kSlotCount; ++i) {
    JobSlot& slot = table_->slots[i];
    // acquire: pairs with the claimer's release, so that pid and start time belong to this state
    const uint32_t state = slot.state.load(std::memory_order_acquire);
    if (state == Word(SlotState::kFree)) continue;
    const int32_t pid = slot.pid.load(kRelaxed);
    // Claims happen under the lock that we hold: one in progress was torn by a death, unless its
    // pid says else.
    if (ProcessAlive(pid, slot.start_time.load(kRelaxed))) continue;
    const std::string name = NameOf(slot);
    if (const auto given = AdoptSlot(*table_, SlotId(i))) {
      freed += std::max(*given, Bytes(0));
      Log(LogLevel::kInfo, absl::StrCat("event=slot_orphaned slot=", i, " pid=", pid, " name=\"",
                                        name, "\" bytes=", SlotHeld(slot).value()));
      continue;
    }
    const Bytes held = EmptySlot(*table_, SlotId(i));
    freed += held;
    ++reaped;
    Log(LogLevel::kInfo, absl::StrCat("event=slot_reaped slot=", i, " pid=", pid, " name=\"", name,
                                      "\" bytes=", held.value()));
  }
  for (int lane = 0; lane < kScratchCount; ++lane) freed += RecountLane(*table_, LaneId(lane));
  if (freed > Bytes(0)) AnnounceFreed(*table_, freed);
  return reaped;
}

Bytes DeviceFile::Used() const { return TableUsed(*table_); }
Bytes DeviceFile::Held() const { return TableHeld(*table_); }

Bytes DeviceFile::Capacity() const {
  return Bytes(table_->header.capacity_bytes.load(kRelaxed));  // relaxed: one number
}

void DeviceFile::SetCapacity(Bytes capacity) {
  table_->header.capacity_bytes.store(capacity.value(), kRelaxed);  // relaxed: one number
  AnnounceFreed(*table_, Bytes(0));  // waiters look again: there may be room now
}

absl::Status DeviceFile::DoesNotFit(Bytes asked, Bytes used) const {
  return absl::ResourceExhaustedError(
      absl::StrCat("asked for ", FormatBytes(asked), ", but ", FormatBytes(used),
                   " of the device's ", FormatBytes(Capacity()),
                   " are in use; lower another job's limit (tide limit JOB SIZE), pause a ",
                   "job (tide pause JOB) or raise TIDE_CAPACITY"));
}

absl::Status DeviceFile::TryReserve(std::atomic<int64_t>& field, Bytes delta) {
  Bytes used_without;
  for (int attempt = 0; attempt < kReserveAttempts; ++attempt) {
    // seq_cst: add first, then sum. In the single order of all such operations the last of several
    // racing adds sees all the earlier ones, so the device cannot go over its capacity unseen.
    field.fetch_add(delta.value());
    const Bytes capacity = Capacity();
    if (capacity <= Bytes(0)) return absl::OkStatus();
    const Bytes used = Used();
    if (used <= capacity) return absl::OkStatus();
    field.fetch_sub(delta.value());
    // Two that collide both undo; the one that would have fitted without the other's attempt tries
    // again.
    used_without = Used();
    if (used_without + delta > capacity) break;
  }
  return DoesNotFit(delta, used_without);
}

absl::Status DeviceFile::Reserve(SlotId id, std::atomic<int64_t> JobSlot::*field, Bytes delta) {
  JobSlot& own = slot(id);
  if (delta <= Bytes(0)) {
    (own.*field).fetch_add(delta.value());  // seq_cst: part of the ledger's sum
    if (delta < Bytes(0)) AnnounceFreed(*table_, -delta);
    return absl::OkStatus();
  }
  absl::Status status = TryReserve(own.*field, delta);
  if (!status.ok() && ReapDead(kReapPatience) > 0) status = TryReserve(own.*field, delta);
  if (!status.ok()) return status;
  const int64_t held = SlotHeld(own).value();
  // relaxed: a statistic that only the owner writes
  if (held > own.peak_bytes.load(kRelaxed)) own.peak_bytes.store(held, kRelaxed);
  return absl::OkStatus();
}

absl::Status DeviceFile::ReserveScratch(SlotId id, LaneId lane_id, Bytes delta) {
  // Under the lock, because a generation may be retired at any time: the bytes must go to the one
  // that is mapped.
  TIDE_ASSIGN_OR_RETURN(const FileLock lock, Lock());
  JobSlot& own = slot(id);
  LaneSlot& its_lane = lane(lane_id);
  const bool retired = own.lane_generation.load(kRelaxed) != its_lane.generation.load(kRelaxed);
  std::atomic<int64_t>& charge = retired ? its_lane.retired_bytes : its_lane.scratch_bytes;
  if (delta <= Bytes(0)) {
    charge.fetch_add(delta.value());  // seq_cst: part of the ledger's sum
    if (delta < Bytes(0)) AnnounceFreed(*table_, -delta);
  } else {
    absl::Status status = TryReserve(charge, delta);
    if (!status.ok() && ReapDeadLocked() > 0) status = TryReserve(charge, delta);
    if (!status.ok()) return status;
  }
  if (retired)
    own.retired_scratch_bytes.fetch_add(delta.value(), kRelaxed);  // relaxed: under the lock
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> DeviceFile::HoldChunks(SlotId id, Bytes size, int count) {
  TIDE_ASSIGN_OR_RETURN(const FileLock lock, Lock());
  JobSlot& own = slot(id);
  const LaneId lane_id(own.lane.load(kRelaxed));  // relaxed, here and below: under the lock
  if (lane_id.value() < 0) return absl::FailedPreconditionError("the process is in no lane");
  LaneSlot& its_lane = lane(lane_id);
  RecountLane(*table_, lane_id);  // sizes that nobody has any more are free
  int index = -1;
  for (int i = kChunkSizes - 1; i >= 0; --i) {
    const int64_t used = its_lane.chunk_bytes[i].load(kRelaxed);
    if (used == size.value() || (used == 0 && (index < 0 || its_lane.chunk_bytes[index] == 0)))
      index = i;
  }
  if (index < 0) {
    return absl::UnavailableError(
        absl::StrCat("the lane has chunks of ", kChunkSizes, " other sizes already"));
  }
  const uint64_t generation = own.lane_generation.load(kRelaxed);
  std::atomic<int64_t>& charge = generation == its_lane.generation.load(kRelaxed)
                                     ? its_lane.scratch_bytes
                                     : its_lane.retired_bytes;
  auto grows_by = [&] {
    const int others = MostChunks(*table_, lane_id, generation, index, id);
    return size * (std::max(others, count) - std::max(others, own.chunks[index].load(kRelaxed)));
  };
  Bytes delta = grows_by();
  if (delta > Bytes(0)) {
    absl::Status status = TryReserve(charge, delta);
    if (!status.ok() && ReapDeadLocked() > 0) {
      delta = grows_by();  // a chunk may have gone with its last member
      status = TryReserve(charge, delta);
    }
    TIDE_RETURN_IF_ERROR(status);
  } else {
    charge.fetch_add(delta.value());  // seq_cst: part of the ledger's sum
  }
  its_lane.chunk_bytes[index].store(size.value(), kRelaxed);
  own.chunks[index].store(count, kRelaxed);
  if (delta < Bytes(0)) AnnounceFreed(*table_, -delta);
  std::vector<int32_t> pids;
  for (int i = 0; i < kSlotCount; ++i) {
    const JobSlot& other = table_->slots[i];
    if (SlotId(i) == id || !IsLive(other) || other.lane.load(kRelaxed) != lane_id.value() ||
        other.lane_generation.load(kRelaxed) != generation ||
        other.chunks[index].load(kRelaxed) < count)
      continue;
    pids.push_back(other.pid.load(kRelaxed));
  }
  return pids;
}

absl::Status DeviceFile::RenewChunks(LaneId lane_id) {
  TIDE_ASSIGN_OR_RETURN(const FileLock lock, Lock());
  LaneSlot& its_lane = lane(lane_id);
  const Bytes scratch(its_lane.scratch_bytes.load());  // seq_cst: part of the ledger's sum
  const Bytes used = Used(), capacity = Capacity();
  if (capacity > Bytes(0) && used + scratch > capacity) return DoesNotFit(scratch, used);
  its_lane.generation.fetch_add(1, std::memory_order_release);  // release: who sees it asks anew
  RecountLane(*table_, lane_id);
  return absl::OkStatus();
}

void DeviceFile::Wake(SlotId id) { WakeSlot(slot(id)); }

uint32_t DeviceFile::FreedWord() const {
  // acquire: pairs with AnnounceFreed's release, so that a later sum sees the bytes that were given
  // back
  return table_->header.freed_word.load(std::memory_order_acquire);
}

void DeviceFile::WaitFreed(uint32_t seen, absl::Duration timeout) {
  FutexWait(table_->header.freed_word, seen, timeout);
}

std::vector<Holder> DeviceFile::WhoHoldsWhat() const {
  std::vector<Holder> holders;
  for (int i = 0; i < kSlotCount; ++i) {
    const JobSlot& slot = table_->slots[i];
    if (!IsLive(slot)) continue;
    Holder& holder = holders.emplace_back();
    holder.slot = SlotId(i);
    holder.name = NameOf(slot);
    if (slot.flags.load(kRelaxed) & kOrphans) absl::StrAppend(&holder.name, " (left behind)");
    // relaxed throughout: a picture for people, each number by itself
    holder.pid = slot.pid.load(kRelaxed);
    holder.job_id = slot.job_id.load(kRelaxed);
    holder.private_bytes = Bytes(slot.private_bytes.load(kRelaxed));
    holder.file_resident = Bytes(slot.file_now_bytes.load(kRelaxed));
    holder.outside = Bytes(slot.outside_now_bytes.load(kRelaxed));
    holder.demoted = Bytes(slot.demoted_bytes.load(kRelaxed));
    holder.guaranteed = Bytes(slot.budget_bytes_guaranteed.load(kRelaxed));
    holder.lane = LaneId(TurnLane(slot.lane.load(kRelaxed)));
    holder.has_turn = HasTurn(*table_, i);
  }
  std::stable_sort(holders.begin(), holders.end(),
                   [](const Holder& a, const Holder& b) { return a.used() > b.used(); });
  return holders;
}

}  // namespace tide::shm

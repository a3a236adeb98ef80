// Sums over slots and the small state changes of the device table.
#include "shm/slot_table.h"

#include <string.h>

#include <algorithm>
#include <climits>
#include <optional>

#include "base/atomics.h"
#include "shm/futex.h"

namespace tide::shm {
namespace {

constexpr uint64_t kEmptyTurn = TurnWord::Make(TurnWord::kNobody, 0);

bool MapsScratch(const JobSlot& slot, int lane) {
  // relaxed: written and read under the device lock, which orders them
  return IsLive(slot) && slot.lane.load(kRelaxed) == lane && slot.lane_fd.load(kRelaxed) >= 0;
}

// What the generation that `slot` maps is charged with; 0 when a lower slot maps it too, so that a
// generation counts once, however many members are late to leave it.
int64_t RetiredCharge(const DeviceTable& table, int lane, int slot) {
  const uint64_t generation = table.slots[slot].lane_generation.load(kRelaxed);
  int64_t charge = 0;
  for (int i = 0; i < kSlotCount; ++i) {
    const JobSlot& other = table.slots[i];
    if (!MapsScratch(other, lane) || other.lane_generation.load(kRelaxed) != generation) continue;
    if (i < slot) return 0;
    charge = std::max(charge, other.retired_scratch_bytes.load(kRelaxed));
  }
  return charge;
}

Bytes SumOverTable(const DeviceTable& table, Bytes (*of_slot)(const JobSlot&)) {
  Bytes sum;
  for (const JobSlot& slot : table.slots) {
    if (IsLive(slot)) sum += of_slot(slot);
  }
  for (const LaneSlot& lane : table.lanes) {
    // seq_cst: as for the slots
    sum += Bytes(lane.scratch_bytes.load() + lane.retired_bytes.load());
  }
  return sum;
}

}  // namespace

void ResetSlot(JobSlot& slot) {
  // relaxed throughout: the caller publishes the slot with a release store of its state
  slot.pid.store(0, kRelaxed);
  slot.start_time.store(0, kRelaxed);
  slot.uid.store(0, kRelaxed);
  slot.job_id.store(0, kRelaxed);
  memset(slot.name, 0, sizeof(slot.name));
  for (auto field : {&JobSlot::private_bytes,
                     &JobSlot::file_resident_bytes,
                     &JobSlot::outside_bytes,
                     &JobSlot::outside_now_bytes,
                     &JobSlot::file_now_bytes,
                     &JobSlot::demoted_bytes,
                     &JobSlot::persistent_bytes,
                     &JobSlot::scratch_peak_bytes,
                     &JobSlot::peak_bytes,
                     &JobSlot::budget_bytes_max,
                     &JobSlot::budget_bytes_guaranteed,
                     &JobSlot::budget_revision,
                     &JobSlot::reclaim_bytes,
                     &JobSlot::joined_ns,
                     &JobSlot::service_ns,
                     &JobSlot::iterations,
                     &JobSlot::last_iteration_ns,
                     &JobSlot::virtual_ns,
                     &JobSlot::rounds,
                     &JobSlot::heartbeat_ns,
                     &JobSlot::retired_scratch_bytes,
                     &JobSlot::pace_cut_ns,
                     &JobSlot::progress_usual_ns,
                     &JobSlot::progress_took_ns,
                     &JobSlot::stretch_begin_ns,
                     &JobSlot::stretch_usual_ns,
                     &JobSlot::step_usual_ns,
                     &JobSlot::step_took_ns,
                     &JobSlot::progress_ns}) {
    (slot.*field).store(0, kRelaxed);
  }
  slot.pace_ppm.store(kPaceWhole, kRelaxed);
  slot.pace_law.store(0, kRelaxed);
  slot.pace_for.store(-1, kRelaxed);
  slot.pace_loss_ppm.store(0, kRelaxed);
  slot.stopped_ns.store(kNeverRan, kRelaxed);
  slot.progress_sequence.store(0, kRelaxed);
  slot.remaining_ns.store(-1, kRelaxed);
  slot.gang.store(0, kRelaxed);
  slot.gang_rank.store(0, kRelaxed);
  slot.gang_size.store(0, kRelaxed);
  slot.gang_state.store(static_cast<uint32_t>(GangState::kApart), kRelaxed);
  slot.gang_close.store(-1, kRelaxed);
  slot.lane.store(-1, kRelaxed);
  slot.flags.store(0, kRelaxed);
  slot.phase.store(static_cast<uint32_t>(Phase::kOutside), kRelaxed);
  slot.priority.store(1, kRelaxed);
  slot.weight_milli.store(1000, kRelaxed);
  slot.lane_fd.store(-1, kRelaxed);
  slot.lane_generation.store(0, kRelaxed);
  for (auto& chunks : slot.chunks) chunks.store(0, kRelaxed);
  for (auto& child : slot.children) child.store(0, kRelaxed);
}

void InitialiseTable(DeviceTable& table, const char* boot_id) {
  table.header.magic.store(0, kRelaxed);
  table.header.version.store(kTableVersion, kRelaxed);
  table.header.slot_bytes.store(sizeof(JobSlot), kRelaxed);
  strncpy(table.header.boot_id, boot_id, sizeof(table.header.boot_id) - 1);
  table.header.boot_id[sizeof(table.header.boot_id) - 1] = '\0';
  table.header.capacity_bytes.store(0, kRelaxed);
  table.header.freed_word_total.store(0, kRelaxed);
  table.header.freed_word.store(0, kRelaxed);
  for (LaneSlot& lane : table.lanes) {
    lane.turn.store(kEmptyTurn, kRelaxed);
    lane.policy.store(0, kRelaxed);
    for (auto field : {&LaneSlot::quantum_ns, &LaneSlot::granted_ns, &LaneSlot::released_ns,
                       &LaneSlot::handovers, &LaneSlot::scratch_bytes, &LaneSlot::retired_bytes,
                       &LaneSlot::virtual_ns, &LaneSlot::rounds}) {
      (lane.*field).store(0, kRelaxed);
    }
    lane.generation.store(0, kRelaxed);
    for (auto& size : lane.chunk_bytes) size.store(0, kRelaxed);
    for (auto& bits : lane.member_bits) bits.store(0, kRelaxed);
  }
  for (JobSlot& slot : table.slots) {
    ResetSlot(slot);
    slot.state.store(static_cast<uint32_t>(SlotState::kFree), kRelaxed);
    slot.wake_word.store(0, kRelaxed);
  }
  // release: whoever sees the magic sees all of the above
  table.header.magic.store(kTableMagic, std::memory_order_release);
}

Bytes SlotUsed(const JobSlot& slot) {
  // seq_cst: a reserver adds to its own field and then reads the others'; of two that race, the one
  // later in the single order of all these operations sees the other's bytes (DeviceFile::Reserve)
  return Bytes(slot.private_bytes.load() + slot.file_resident_bytes.load() +
               slot.outside_bytes.load());
}

Bytes SlotHeld(const JobSlot& slot) {
  // relaxed throughout: a picture for people
  return Bytes(slot.private_bytes.load(kRelaxed) + slot.file_now_bytes.load(kRelaxed) +
               slot.outside_now_bytes.load(kRelaxed));
}

Bytes TableUsed(const DeviceTable& table) { return SumOverTable(table, SlotUsed); }
Bytes TableHeld(const DeviceTable& table) { return SumOverTable(table, SlotHeld); }

int MostChunks(const DeviceTable& table, LaneId lane, uint64_t generation, int size_index,
               SlotId excluded) {
  int most = 0;
  for (int i = 0; i < kSlotCount; ++i) {
    const JobSlot& slot = table.slots[i];
    // relaxed: written under the device lock, or a figure of a moment
    if (SlotId(i) == excluded || !IsLive(slot) || slot.lane.load(kRelaxed) != lane.value() ||
        slot.lane_generation.load(kRelaxed) != generation)
      continue;
    most = std::max(most, slot.chunks[size_index].load(kRelaxed));
  }
  return most;
}

namespace {

template <typename CountOf>
Bytes SumOverSizes(const DeviceTable& table, SlotId id, CountOf count_of) {
  const int lane = table.slots[id.value()].lane.load(kRelaxed);  // relaxed: as in MostChunks
  if (lane < 0 || lane >= kScratchCount) return Bytes(0);
  int64_t sum = 0;
  for (int i = 0; i < kChunkSizes; ++i) {
    const int count = table.slots[id.value()].chunks[i].load(kRelaxed);
    if (count > 0) sum += table.lanes[lane].chunk_bytes[i].load(kRelaxed) * count_of(i, count);
  }
  return Bytes(sum);
}

}  // namespace

Bytes ChunkBytes(const DeviceTable& table, SlotId slot) {
  return SumOverSizes(table, slot, [](int, int count) { return count; });
}

Bytes OwnChunkBytes(const DeviceTable& table, SlotId slot) {
  const JobSlot& own = table.slots[slot.value()];
  const LaneId lane(own.lane.load(kRelaxed));
  const uint64_t generation = own.lane_generation.load(kRelaxed);
  return SumOverSizes(table, slot, [&](int i, int count) {
    return std::max(count - MostChunks(table, lane, generation, i, slot), 0);
  });
}

bool HasTurn(const DeviceTable& table, int slot) {
  // relaxed throughout: a picture for people
  const JobSlot& own = table.slots[slot];
  const uint64_t gang = own.gang.load(kRelaxed);
  const bool follows = own.gang_state.load(kRelaxed) == static_cast<uint32_t>(GangState::kIn);
  const int lane = TurnLane(own.lane.load(kRelaxed));
  if (lane < 0 || lane >= kLaneCount) return false;
  const int holder = TurnWord::Holder(table.lanes[lane].turn.load(kRelaxed));
  if (holder == slot) return true;
  return holder >= 0 && gang != 0 && follows && table.slots[holder].gang.load(kRelaxed) == gang;
}

void WakeSlot(JobSlot& slot) {
  // release: who reads the new word also sees what was written before the wake (the turn, an order,
  // a request)
  slot.wake_word.fetch_add(1, std::memory_order_release);
  FutexWake(slot.wake_word, 1);
}

void AnnounceFreed(DeviceTable& table, Bytes bytes) {
  table.header.freed_word_total.fetch_add(bytes.value(), kRelaxed);  // relaxed: a statistic
  // release: who reads the new word and then sums sees the smaller ledger
  table.header.freed_word.fetch_add(1, std::memory_order_release);
  FutexWake(table.header.freed_word, INT_MAX);
}

void VacateTurns(DeviceTable& table, SlotId slot) {
  for (int lane = 0; lane < kLaneCount; ++lane) {
    std::atomic<uint64_t>& turn = table.lanes[lane].turn;
    uint64_t word = turn.load(std::memory_order_acquire);
    // seq_cst on success: the scan for ready members below must not move before it (Note [No lost
    // turn] in lane/turn.cc)
    if (TurnWord::Holder(word) != slot.value() ||
        !turn.compare_exchange_strong(word, TurnWord::Grant(word, TurnWord::kNobody))) {
      continue;
    }
    for (JobSlot& member : table.slots) {
      if (IsLive(member) && member.lane.load(kRelaxed) == lane &&
          (member.flags.load() & kReady) != 0) {
        WakeSlot(member);
      }
    }
  }
}

void ForgetMember(DeviceTable& table, SlotId slot) {
  const uint64_t mask = ~(uint64_t{1} << (slot.value() % 64));
  for (LaneSlot& lane : table.lanes) {
    // relaxed: the bits are a hint of where to look; slot.lane and slot.state are the truth
    lane.member_bits[slot.value() / 64].fetch_and(mask, kRelaxed);
  }
}

namespace {

struct ChunkSums {
  int64_t current = 0;
  int64_t retired = 0;
};

// What older generations have of one size. Each counts with the first member that has the most.
int64_t RetiredChunks(const DeviceTable& table, LaneId id, int size_index, uint64_t current) {
  int64_t sum = 0;
  auto count_of = [&](int i, uint64_t generation) {
    const JobSlot& slot = table.slots[i];
    const bool member = IsLive(slot) && slot.lane.load(kRelaxed) == id.value() &&
                        slot.lane_generation.load(kRelaxed) == generation;
    return member ? slot.chunks[size_index].load(kRelaxed) : 0;
  };
  for (int i = 0; i < kSlotCount; ++i) {
    const uint64_t generation = table.slots[i].lane_generation.load(kRelaxed);
    const int count = generation == current ? 0 : count_of(i, generation);
    bool most = count > 0;
    for (int other = 0; other < kSlotCount && most; ++other) {
      const int its = other == i ? 0 : count_of(other, generation);
      most = its < count || (its == count && other > i);
    }
    if (most) sum += count;
  }
  return sum;
}

// Of a lane of chunks; nothing for one whose scratch is a memfd. Sizes that nobody has go.
std::optional<ChunkSums> SumOfChunks(DeviceTable& table, LaneId id) {
  LaneSlot& lane = table.lanes[id.value()];
  const uint64_t current = lane.generation.load(kRelaxed);  // relaxed, here: under the device lock
  ChunkSums sums;
  bool has_chunks = false;
  for (int i = 0; i < kChunkSizes; ++i) {
    const int64_t size = lane.chunk_bytes[i].load(kRelaxed);
    if (size == 0) continue;
    has_chunks = true;
    const int64_t now = MostChunks(table, id, current, i);
    const int64_t retired = RetiredChunks(table, id, i, current);
    if (now + retired == 0) lane.chunk_bytes[i].store(0, kRelaxed);
    sums.current += size * now;
    sums.retired += size * retired;
  }
  if (!has_chunks) return std::nullopt;
  return sums;
}

}  // namespace

Bytes RecountLane(DeviceTable& table, LaneId id) {
  LaneSlot& lane = table.lanes[id.value()];
  if (const auto chunks = SumOfChunks(table, id)) {
    // seq_cst: these two are part of the ledger's sum
    const int64_t given_back = lane.scratch_bytes.exchange(chunks->current) - chunks->current +
                               lane.retired_bytes.exchange(chunks->retired) - chunks->retired;
    return Bytes(std::max<int64_t>(given_back, 0));
  }
  const uint64_t current =
      lane.generation.load(kRelaxed);  // relaxed: it changes under the device lock only
  bool current_is_mapped = false;
  int64_t retired = 0;
  for (int i = 0; i < kSlotCount; ++i) {
    if (!MapsScratch(table.slots[i], id.value())) continue;
    const uint64_t generation = table.slots[i].lane_generation.load(kRelaxed);
    current_is_mapped = current_is_mapped || generation == current;
    if (generation != current) retired += RetiredCharge(table, id.value(), i);
  }
  // seq_cst: these two are part of the ledger's sum
  int64_t given_back = lane.retired_bytes.exchange(retired) - retired;
  if (!current_is_mapped) given_back += lane.scratch_bytes.exchange(0);
  return Bytes(std::max<int64_t>(given_back, 0));
}

}  // namespace tide::shm

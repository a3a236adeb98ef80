// Operations on a mapped device table that need no file and no system call but a wake: sums,
// resets, recounts.
#pragma once

#include "base/bytes.h"
#include "base/ids.h"
#include "shm/layout.h"

namespace tide::shm {

/// Writes an empty table of this version. Only for a table that nobody else can see as valid yet.
void InitialiseTable(DeviceTable& table, const char* boot_id);

/// Puts every field of a slot but state and wake_word back to "nobody". The wake word only grows,
/// so that a late wake for the previous owner cannot be mistaken.
void ResetSlot(JobSlot& slot);

inline bool IsLive(const JobSlot& slot) {
  // acquire: pairs with the claimer's release of kLive, so that its identity is seen with it
  return slot.state.load(std::memory_order_acquire) == static_cast<uint32_t>(SlotState::kLive);
}

inline bool IsLeaving(const JobSlot& slot) {
  return (slot.flags.load(std::memory_order_relaxed) & kLeaving) != 0;  // relaxed: a hint
}

/// The lane whose turns an entry of DeviceTable::lanes goes by: its own, or that of its seat. -1
/// stays -1.
constexpr int TurnLane(int entry) { return entry < 0 ? entry : entry % kLaneCount; }

/// Whether a slot runs under its lane's turn: it holds it, or its gang's leader does.
bool HasTurn(const DeviceTable& table, int slot);

/// Bytes of one slot that count against the capacity: private, resident file window, and the most
/// that was outside lately.
Bytes SlotUsed(const JobSlot& slot);
/// Bytes of one slot that are in memory now: as SlotUsed, with what was measured last instead.
Bytes SlotHeld(const JobSlot& slot);

/// Sum over live slots, plus the scratch of all lanes, current and retired.
Bytes TableUsed(const DeviceTable& table);
Bytes TableHeld(const DeviceTable& table);

/// Adds 1 to the slot's wake word and wakes its owner.
void WakeSlot(JobSlot& slot);

/// Says that memory has been given back: bumps freed_word and wakes who waits for memory.
void AnnounceFreed(DeviceTable& table, Bytes bytes);

/// Takes every turn away from a slot whose owner is gone: the holder becomes nobody, ready members
/// are woken.
void VacateTurns(DeviceTable& table, SlotId slot);

/// Takes a slot out of its lane's member bits.
void ForgetMember(DeviceTable& table, SlotId slot);

/// Bytes of a lane's chunks that `slot` has, and of those that no other member has: what the ledger
/// loses when it gives them up. Both change under the device lock.
Bytes ChunkBytes(const DeviceTable& table, SlotId slot);
Bytes OwnChunkBytes(const DeviceTable& table, SlotId slot);
/// The most chunks of one size, an index of LaneSlot::chunk_bytes, that a member of `generation`
/// other than `excluded` has.
int MostChunks(const DeviceTable& table, LaneId lane, uint64_t generation, int size_index,
               SlotId excluded = SlotId());

/// Derives a lane's retired_bytes from the slots that still map old generations, and scratch_bytes
/// = 0 when nobody maps the current one; of a lane of chunks, scratch_bytes from the members'
/// chunks. Under the device lock. Returns the bytes given back by
/// that.
Bytes RecountLane(DeviceTable& table, LaneId lane);

}  // namespace tide::shm

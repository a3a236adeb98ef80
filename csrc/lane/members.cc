// Turns slots into sched::TurnMember values.
#include "lane/members.h"

#include <bit>

#include "base/atomics.h"
#include "shm/slot_table.h"

namespace tide::lane {
namespace {

sched::TurnMember ToMember(const shm::JobSlot& slot, SlotId id) {
  sched::TurnMember member;
  member.id = id;
  // relaxed throughout: inputs of a decision that is right for any recent values; only `ready` must
  // not be stale
  member.joined = absl::Nanoseconds(slot.joined_ns.load(kRelaxed));
  member.service = absl::Nanoseconds(slot.service_ns.load(kRelaxed));
  member.virtual_service = absl::Nanoseconds(slot.virtual_ns.load(kRelaxed));
  member.iterations = slot.rounds.load(kRelaxed);
  const int64_t remaining_ns = slot.remaining_ns.load(kRelaxed);
  if (remaining_ns >= 0) member.remaining = absl::Nanoseconds(remaining_ns);
  member.weight = slot.weight_milli.load(kRelaxed) / 1000.0;
  member.priority = static_cast<sched::Priority>(slot.priority.load(kRelaxed));
  member.last_iteration = absl::Nanoseconds(slot.last_iteration_ns.load(kRelaxed));
  // seq_cst: Note [No lost turn] in turn.cc
  const uint32_t flags = slot.flags.load();
  member.ready = (flags & shm::kReady) != 0;
  member.learning = (flags & shm::kLearning) != 0;
  return member;
}

// Calls `visit(slot, id)` for each live member until it returns false.
template <typename Visit>
void ForEachMember(const shm::DeviceTable& table, LaneId lane, SlotId excluded, Visit visit) {
  for (int word = 0; word < shm::kSlotCount / 64; ++word) {
    // seq_cst: a member sets its bit before its ready flag; Note [No lost turn] in turn.cc
    uint64_t bits = table.lanes[lane.value()].member_bits[word].load();
    for (; bits != 0; bits &= bits - 1) {
      const SlotId id(word * 64 + std::countr_zero(bits));
      const shm::JobSlot& slot = table.slots[id.value()];
      if (id != excluded && IsMember(slot, lane) && !visit(slot, id)) return;
    }
  }
}

}  // namespace

bool IsMember(const shm::JobSlot& slot, LaneId lane) {
  // acquire: pairs with Join's release, so that weight and start line belong to this membership
  return shm::IsLive(slot) && slot.lane.load(std::memory_order_acquire) == lane.value();
}

void GatherMembers(const shm::DeviceTable& table, LaneId lane, SlotId excluded, Members& members) {
  ForEachMember(table, lane, excluded, [&members](const shm::JobSlot& slot, SlotId id) {
    members.push_back(ToMember(slot, id));
    return true;
  });
}

bool AnyReady(const shm::DeviceTable& table, LaneId lane, SlotId excluded) {
  bool found = false;
  ForEachMember(table, lane, excluded, [&found](const shm::JobSlot& slot, SlotId) {
    found = (slot.flags.load() & shm::kReady) != 0;  // seq_cst: Note [No lost turn] in turn.cc
    return !found;
  });
  return found;
}

}  // namespace tide::lane

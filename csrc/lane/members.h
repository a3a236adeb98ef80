// Reads the members of a lane out of the device table, as turn policies see them.
#pragma once

#include "absl/container/inlined_vector.h"
#include "base/ids.h"
#include "sched/turn_policy.h"
#include "shm/layout.h"

namespace tide::lane {

/// Room for every slot of the table, so that gathering never allocates.
using Members = absl::InlinedVector<sched::TurnMember, shm::kSlotCount>;

/// Whether `slot` is a live member of `lane`.
bool IsMember(const shm::JobSlot& slot, LaneId lane);

/// Appends the live members of `lane` but `excluded` (SlotId() excludes none). Costs one look at
/// each member bit and a few cache lines a member; no system call, no allocation.
void GatherMembers(const shm::DeviceTable& table, LaneId lane, SlotId excluded, Members& members);

/// Whether a member other than `excluded` wants the turn.
bool AnyReady(const shm::DeviceTable& table, LaneId lane, SlotId excluded);

}  // namespace tide::lane

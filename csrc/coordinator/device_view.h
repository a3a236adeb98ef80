// A copy of the device table as plain values, so that decisions read it without touching shared
// memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sched/pace_law.h"
#include "sched/turn_policy.h"
#include "shm/layout.h"

namespace tide::coordinator {

/// One live slot. Sizes in bytes, times in monotonic nanoseconds, as in shm/layout.h.
struct SlotView {
  int index = -1;
  int64_t pid = 0;
  uint64_t start_time = 0;
  std::string name;
  int64_t private_bytes = 0, file_resident_bytes = 0, outside_bytes = 0, demoted_bytes = 0;
  int64_t persistent_bytes = 0, scratch_peak_bytes = 0, peak_bytes = 0;
  int64_t budget_bytes_max = 0, budget_bytes_guaranteed = 0, reclaim_bytes = 0;
  int lane = -1;
  bool turn = false;  // it holds the lane's turn, or its gang's leader does
  uint64_t gang = 0;  // key of its gang; 0: none
  int gang_rank = 0;
  shm::GangState gang_state = shm::GangState::kApart;
  bool ready = false, idle = false;
  bool orphans = false;  // children of a job that has ended; no job themselves
  bool leaving = false;  // of a job that has said goodbye and is not dead yet
  shm::Phase phase = shm::Phase::kOutside;
  uint32_t priority = 1;
  double weight = 1;
  int64_t joined_ns = 0, service_ns = 0, virtual_ns = 0, last_iteration_ns = 0, remaining_ns = -1;
  int64_t heartbeat_ns = 0, iterations = 0, rounds = 0;
  double pace = 1;  // share of time that it may run
  sched::PaceLawId pace_law = sched::PaceLawId::kAimd;
  int pace_for = -1;     // slot of the job that it gives way to
  double pace_loss = 0;  // of that job's speed, as seen last
  int64_t pace_cut_ns = 0;
  int64_t step_usual_ns = 0, step_took_ns = 0;  // of a guaranteed job; 0: not known

  int64_t resident_bytes() const { return private_bytes + file_resident_bytes; }
};

struct LaneView {
  int id = 0;
  sched::TurnPolicyId policy = sched::TurnPolicyId::kFair;
  int holder = -1;  // slot; -1: nobody
  int64_t handovers = 0, granted_ns = 0, quantum_ns = 0, scratch_bytes = 0, retired_bytes = 0;
};

struct DeviceView {
  bool present = false;  // false: no table exists yet, everything else is empty
  int64_t capacity_bytes = 0;
  int64_t held_bytes = 0;  // in memory now
  int64_t used_bytes = 0;  // charged: what is kept ready for the jobs counts too
  std::vector<SlotView> slots;
  std::vector<LaneView> lanes;

  const SlotView* Slot(int index) const;
  /// The slot of a process; `hint` is tried first. nullptr when it has none.
  const SlotView* Find(int64_t pid, uint64_t start_time, int hint) const;
  const LaneView* Lane(int id) const;
};

/// Where views come from: the mapped table, or a test.
class DeviceSource {
 public:
  virtual ~DeviceSource() = default;
  virtual DeviceView Read() = 0;
};

/// "outside", "waiting", "running", "loading", "paused", "queued".
const char* PhaseName(shm::Phase phase);

}  // namespace tide::coordinator

// Whether a job fits beside those that run, and on which lane: Salus's safety rule on measured
// sizes.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/bytes.h"
#include "base/ids.h"
#include "sched/turn_policy.h"

namespace tide::sched {

/// What the rule knows of one job of the device.
struct AdmissionMember {
  SlotId id;
  absl::Duration joined;  // monotonic time at which it came
  Bytes persistent;       // what it holds between iterations, interpreter included
  Bytes scratch;          // its largest use of the lane's scratch in an iteration
  int lane = -1;          // -1: takes no turns
  Priority priority = Priority::kNormal;
  bool measured = false;  // its first iterations have been run
  bool queued = false;    // waits to be admitted: it holds next to nothing
};

struct AdmissionOptions {
  Bytes capacity;       // 0: unlimited
  int lanes_max = 1;    // lanes that may run at the same time
  int lane_fixed = -1;  // the lane that was asked for; -1: the rule chooses
  bool queue =
      false;  // what does not fit waits; else it runs, and cold pages are out between turns
};

/// `needed`: what all admitted jobs and this one need at most. `reason` is a sentence with numbers.
struct AdmissionDecision {
  bool admit = false;
  bool fits = false;
  int lane = 0;
  Bytes needed;
  std::string reason;
};

/// Decides on `self`, which must be in `members` and is taken as not admitted yet. The rule: the
/// persistent bytes of all admitted jobs and, for each lane, the largest scratch among its members
/// fit the capacity together. The lane is, in this order, one that nobody uses, the one whose
/// scratch is smallest among those that hold this job's, the one that has to grow least; among
/// equals the one with the fewest members. A job that is not measured yet is admitted to the lane
/// with the fewest members, whose turn it keeps while it learns. With `queue` jobs are admitted in
/// the order of priority and arrival, and a job that is too large for the whole device once it is
/// alone. Reference: P. Yu, M. Chowdhury, Salus, MLSys 2020, section 3.3 and algorithm 1.
AdmissionDecision Admit(absl::Span<const AdmissionMember> members, SlotId self,
                        const AdmissionOptions& options);

}  // namespace tide::sched

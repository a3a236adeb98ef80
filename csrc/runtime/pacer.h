// Slows an opportunistic job to its pace: reads how fast guaranteed jobs run, asks the law, counts
// time in a token bucket.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "base/ids.h"
#include "sched/pace_law.h"
#include "shm/device_file.h"

namespace tide::runtime {

/// Used by the stepping thread of the job alone. All times are monotonic nanoseconds. It never
/// sleeps itself: MayRun says whether the job has time to run, Wait how long it will not have any.
/// A job that is not opportunistic, or the law `off`, has a pace of 1.
class Pacer {
 public:
  Pacer(shm::DeviceFile& device, SlotId self, const sched::PaceOptions& options);

  /// The job runs from now on, until Stop.
  void Run(int64_t now);
  void Stop(int64_t now);
  /// Of the time that it ran it waited so long for other processes of its job: that is not charged.
  void Excuse(int64_t waited_ns);
  /// Takes samples, decides, and refills the bucket. False: the job has run more than its share.
  bool MayRun(int64_t now);
  /// For how long at most, should nothing change; 20 ms at most, so that changes are seen.
  absl::Duration Wait() const;
  /// Whether operators should be reported: somebody may have to be given way to.
  bool WantsOperators(int64_t now);

  double pace() const { return state_.pace; }
  const sched::PaceState& state() const { return state_; }
  sched::PaceLawId law() const { return options_.law; }
  /// Slot of the guaranteed job that loses most; -1: none.
  int slowed_for() const { return slowed_for_; }

 private:
  /// What a guaranteed job has done so far, as far as it is known.
  struct Progress {
    double usual_ns = 0, took_ns = 0;
    double step_usual_ns = 0, step_took_ns = 0;
    int64_t steps = 0;
    bool inside = false;  // in an iteration
    bool active = false;  // in one, or shortly before
    bool learnt = false;
  };
  struct Protected {
    int slot = -1;
    int32_t pid = 0;
    Progress seen;
    bool fresh = true;  // not seen before
  };

  shm::JobSlot& own() { return device_.slot(self_); }
  bool Opportunistic();
  void Refill(int64_t now);
  void Look(int64_t now);
  void FindProtected(int64_t now);
  static Progress Read(const shm::JobSlot& slot, int64_t now);
  void Publish(int64_t now);

  // constant after construction
  shm::DeviceFile& device_;
  const SlotId self_;
  const sched::PaceOptions options_;

  sched::PaceState state_;
  std::vector<Protected> protected_;
  int64_t protected_at_ns_ = 0;  // when they were looked for
  int64_t looked_ns_ = 0;        // when their progress was
  bool any_active_ = false;      // one of them trains
  bool any_inside_ = false;      // one of them is in an iteration just now
  int slowed_for_ = -1;
  bool runs_ = false;
  bool waits_ = false;  // has run out of time, until the bucket is full again
  int64_t refilled_ns_ = 0;
  double tokens_ns_ = 0;
};

}  // namespace tide::runtime

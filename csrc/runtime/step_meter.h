// Says in the device table how fast a guaranteed job runs: the clock of its iterations' stretches.
#pragma once

#include <cstdint>
#include <vector>

#include "base/ids.h"
#include "sched/usual_times.h"
#include "shm/device_file.h"

namespace tide::runtime {

/// Used by the stepping thread of a guaranteed job alone. All times are monotonic nanoseconds. A
/// stretch is undisturbed when no opportunistic job has run in it or in the 10 ms before it.
class StepMeter {
 public:
  StepMeter(shm::DeviceFile& device, SlotId self) : device_(device), self_(self) {}

  /// The iteration is asked for; waiting for the turn is its first stretch. `operators`: calls of
  /// Operator follow. `settled`: false for the first iterations of a job, which are no measure.
  void Ask(int kind, bool operators, bool settled, int64_t now);
  /// The turn is here.
  void Begin(int64_t now) { EndStretch(now); }
  /// An operator begins.
  void Operator(int64_t now);
  /// How many operators are passed over between two looks at the clock: asked before the clock is.
  bool Due() { return ++skipped_ >= stride_; }
  void End(int64_t now);
  /// The job asks for no iteration, or is no guaranteed one now.
  void Leave();

  /// Whether operators should be reported in the next iteration: where there is an opportunistic
  /// job, and steps are so long that their ends say too little.
  bool WantsOperators(int64_t now);
  /// Whether there is an opportunistic job.
  bool HasNeighbours(int64_t now) {
    FindNeighbours(now);
    return !neighbours_.empty();
  }

 private:
  shm::JobSlot& own() { return device_.slot(self_); }
  void EndStretch(int64_t now);
  void OpenStretch(int64_t now);
  bool Undisturbed();
  void FindNeighbours(int64_t now);

  // constant after construction
  shm::DeviceFile& device_;
  const SlotId self_;

  sched::UsualTimes times_;
  std::vector<int> neighbours_;  // slots of opportunistic jobs
  int64_t neighbours_at_ns_ = 0;
  bool asked_ = false;      // between Ask and End
  bool operators_ = false;  // of this iteration
  bool settled_ = false;
  int stride_ = 1;       // operators of a stretch
  int skipped_ = 0;      // since the last look at the clock
  int64_t counted_ = 0;  // operators of this iteration
  bool stride_known_ = false;
  bool too_many_ = false;  // operators so short that to report them costs too much
  int64_t begin_ns_ = 0;   // of the stretch
  int64_t asked_ns_ = 0;   // of the iteration
  double mean_step_ns_ = 0;
  // of this iteration
  double usual_ns_ = 0, known_took_ns_ = 0;
  int faster_steps_ = 0;  // in a row
};

}  // namespace tide::runtime

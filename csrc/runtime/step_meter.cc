#include "runtime/step_meter.h"

#include <algorithm>

#include "base/atomics.h"
#include "shm/slot_table.h"

namespace tide::runtime {
namespace {

constexpr int64_t kNeighbourNanos = 50'000'000;  // between two looks for neighbours
constexpr int64_t kSettleNanos = 10'000'000;     // caches are cold for so long after a neighbour
constexpr double kLongStepNs = 20e6;             // shorter steps are judged by their ends alone
constexpr double kStretchNs = 0.5e6;             // aimed at
constexpr double kOperatorCostNs = 200;          // of a report, generously
constexpr double kCostShareMax = 0.01;
constexpr double kFaster = 0.9;  // a job that takes less than this of its usual time has changed
constexpr int kFasterSteps = 5;

}  // namespace

void StepMeter::FindNeighbours(int64_t now) {
  if (now - neighbours_at_ns_ < kNeighbourNanos && neighbours_at_ns_ != 0) return;
  neighbours_at_ns_ = now;
  neighbours_.clear();
  for (int index = 0; index < shm::kSlotCount; ++index) {
    const shm::JobSlot& slot = device_.slot(SlotId(index));
    if (index == self_.value() || !shm::IsLive(slot) || slot.priority.load(kRelaxed) != 0) continue;
    if ((slot.flags.load(kRelaxed) & (shm::kOrphans | shm::kLeaving)) != 0) continue;
    neighbours_.push_back(index);
  }
}

bool StepMeter::Undisturbed() {
  for (const int index : neighbours_) {
    // acquire: a neighbour that has stopped said so after its last operator
    const int64_t stopped = device_.slot(SlotId(index)).stopped_ns.load(std::memory_order_acquire);
    if (stopped == 0 || stopped > begin_ns_ - kSettleNanos) return false;
  }
  return true;
}

bool StepMeter::WantsOperators(int64_t now) {
  FindNeighbours(now);
  return !neighbours_.empty() && mean_step_ns_ >= kLongStepNs && !too_many_;
}

void StepMeter::OpenStretch(int64_t now) {
  begin_ns_ = now;
  skipped_ = 0;
  // relaxed between the two stores of the sequence: the reader looks at it before and after
  own().stretch_begin_ns.store(now, kRelaxed);
  own().stretch_usual_ns.store(settled_ ? static_cast<int64_t>(times_.Usual()) : 0, kRelaxed);
}

void StepMeter::Ask(int kind, bool operators, bool settled, int64_t now) {
  if (asked_) return;  // an interrupted wait is asked for again: it is the same one
  FindNeighbours(now);
  asked_ = true;
  operators_ = operators;
  settled_ = settled;
  counted_ = 0;
  usual_ns_ = known_took_ns_ = 0;
  asked_ns_ = now;
  times_.Begin(2 * kind + (operators ? 1 : 0));
  shm::JobSlot& slot = own();
  slot.progress_sequence.fetch_add(1, std::memory_order_acq_rel);
  OpenStretch(now);
  slot.progress_sequence.fetch_add(1, std::memory_order_release);
}

void StepMeter::EndStretch(int64_t now) {
  if (!asked_) return;
  shm::JobSlot& slot = own();
  sched::UsualTimes::Stretch stretch;
  if (settled_) {
    stretch = times_.End(static_cast<double>(now - begin_ns_), Undisturbed());
  }
  slot.progress_sequence.fetch_add(1, std::memory_order_acq_rel);
  if (stretch.usual_ns > 0) {
    usual_ns_ += stretch.usual_ns;
    known_took_ns_ += stretch.took_ns;
    slot.progress_usual_ns.fetch_add(static_cast<int64_t>(stretch.usual_ns), kRelaxed);
    slot.progress_took_ns.fetch_add(static_cast<int64_t>(stretch.took_ns), kRelaxed);
  }
  slot.progress_ns.store(now, kRelaxed);
  OpenStretch(now);
  slot.progress_sequence.fetch_add(1, std::memory_order_release);
}

void StepMeter::Operator(int64_t now) {
  if (!asked_ || !operators_) return;
  counted_ += skipped_;
  FindNeighbours(now);
  EndStretch(now);
}

void StepMeter::End(int64_t now) {
  if (!asked_) return;
  counted_ += skipped_;
  EndStretch(now);
  asked_ = false;
  shm::JobSlot& slot = own();
  slot.stretch_begin_ns.store(0, kRelaxed);
  const auto took = static_cast<double>(now - asked_ns_);
  if (!settled_) return;
  mean_step_ns_ = mean_step_ns_ > 0 ? 0.8 * mean_step_ns_ + 0.2 * took : took;
  if (operators_ && !stride_known_ && counted_ > 0) {
    // The places of stretches change with the stride, so it is set once.
    stride_known_ = true;
    const double mean_ns = took / static_cast<double>(counted_);
    stride_ = static_cast<int>(std::clamp(kStretchNs / mean_ns, 1.0, 10'000.0));
    too_many_ = kOperatorCostNs / mean_ns > kCostShareMax;
    times_.Forget();
    return;
  }
  // What little is not known yet takes as much longer as the rest.
  const bool known = known_took_ns_ > 0.5 * took;
  const double usual = known ? usual_ns_ * took / known_took_ns_ : 0;
  slot.step_usual_ns.store(static_cast<int64_t>(usual), kRelaxed);
  slot.step_took_ns.store(static_cast<int64_t>(took), kRelaxed);
  faster_steps_ = known && known_took_ns_ < kFaster * usual_ns_ ? faster_steps_ + 1 : 0;
  if (faster_steps_ >= kFasterSteps) {
    faster_steps_ = 0;
    times_.Forget();
    slot.step_usual_ns.store(0, kRelaxed);
  }
}

void StepMeter::Leave() {
  asked_ = false;
  own().stretch_begin_ns.store(0, kRelaxed);
}

}  // namespace tide::runtime

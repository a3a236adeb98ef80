// Pace in the job: an opportunistic one waits at the boundary and between operators, a guaranteed
// one says how fast it runs.
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/atomics.h"
#include "runtime/cuda_job.h"
#include "runtime/runtime.h"
#include "shm/futex.h"
#include "shm/slot_table.h"

namespace tide::runtime {
namespace {

constexpr uint32_t kGuaranteed = 2;
// A pace moves many times a second; people are told when it begins and ends to matter.
constexpr double kSlowed = 0.95;
constexpr int64_t kSayNanos = 10'000'000'000;

int64_t ProcessorNanos() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}

}  // namespace

void Runtime::AskMeter(int phase) {
  const int64_t now = clock_.MonotonicNanos();
  if (slot().priority.load(kRelaxed) != kGuaranteed) {
    LeaveMeter();
    pace_operators_ = pacer_->WantsOperators(now);
    return;
  }
  // The times of operators are those of their launches where a device computes.
  if (!metered_) pace_operators_ = !OnDevices() && meter_->WantsOperators(now);
  metered_ = true;
  meter_->Ask(phase, pace_operators_, !Learning(iterations_.load(kRelaxed)), now);
}

bool Runtime::OnDevices() {
  const CudaJob* const cuda = CudaJob::Current();
  return cuda != nullptr && cuda->HoldsMemory();
}

void Runtime::FinishDeviceWork() {
  if (CudaJob* cuda = CudaJob::Current()) cuda->FinishWork();
}

void Runtime::AwaitDeviceWork() {
  if (!OnDevices()) return;
  const int64_t now = clock_.MonotonicNanos();
  // What is launched is not done: a slowed job is charged for what the device does for it, and says
  // that it stands still when the device does.
  if (pacer_->WantsOperators(now)) {
    FinishDeviceWork();
  } else if (metered_ && meter_->HasNeighbours(now)) {
    CudaJob::Current()->AwaitIterationBefore();
  }
}

void Runtime::LeaveMeter() {
  if (std::exchange(metered_, false)) meter_->Leave();
}

void Runtime::BeginPace(int64_t now) {
  pace_thread_ = pthread_self();
  let_go_ = false;
  if (metered_) meter_->Begin(now);
  pacer_->Run(now);
  charged_ns_ = now;
  if (in_gang_ && pace_operators_) charged_processor_ns_ = ProcessorNanos();
}

void Runtime::ExcuseWaits(int64_t now) {
  // A device computes while the processor waits for it.
  if (!in_gang_ || !pace_operators_ || metered_ || CudaJob::Current() != nullptr) return;
  const int64_t processor = ProcessorNanos();
  const int64_t ran = processor - charged_processor_ns_;
  pacer_->Excuse(std::max<int64_t>(now - charged_ns_ - ran, 0));
  charged_ns_ = now;
  charged_processor_ns_ = processor;
}

void Runtime::EndPace(int64_t now) {
  pacer_->Stop(now);
  ExcuseWaits(now);
  if (std::exchange(metered_, false)) meter_->End(now);
}

bool Runtime::WaitsForPace() {
  const int64_t now = clock_.MonotonicNanos();
  const bool waits = !pacer_->MayRun(now);
  SayPace(now);
  return waits;
}

void Runtime::SleepForPace() {
  slot().phase.store(static_cast<uint32_t>(shm::Phase::kWaiting), kRelaxed);
  const int64_t begin = clock_.MonotonicNanos();
  // acquire, and before the orders are looked at: whoever orders something adds to the word later
  const uint32_t word = slot().wake_word.load(std::memory_order_acquire);
  if (orders_.Empty()) shm::FutexWait(slot().wake_word, word, pacer_->Wait());
  paced_ns_.fetch_add(clock_.MonotonicNanos() - begin, kRelaxed);
}

void Runtime::PaceOperator(bool may_wait) {
  if (!iteration_open_ || !pthread_equal(pace_thread_, pthread_self())) return;
  if (metered_) {
    if (meter_->Due()) meter_->Operator(clock_.MonotonicNanos());
    return;
  }
  if (!may_wait || let_go_ || !pace_operators_) return;
  int64_t now = clock_.MonotonicNanos();
  if (pacer_->MayRun(now)) return;
  ExcuseWaits(now);
  now = clock_.MonotonicNanos();
  if (!pacer_->MayRun(now)) WaitInside();
}

void Runtime::WaitInside() {
  FinishDeviceWork();
  const int64_t begin = clock_.MonotonicNanos();
  pacer_->Stop(begin);
  int64_t now = begin;
  while (!pacer_->MayRun(now)) {
    // acquire, and before the orders are looked at: as in SleepForPace
    const uint32_t word = slot().wake_word.load(std::memory_order_acquire);
    // In a lane that others share the turn is theirs while this job stands still: its boundary will
    // do. What is ordered is carried out there too, and a signal's handler runs in the interpreter.
    let_go_ = !orders_.Empty() || ((in_lane_ || on_seat_) && LaneMembers() > 1) ||
              shm::FutexWait(slot().wake_word, word, pacer_->Wait()) == EINTR;
    now = clock_.MonotonicNanos();
    slot().heartbeat_ns.store(now, kRelaxed);  // relaxed: a time, read by itself
    if (let_go_) break;
  }
  pacer_->Run(now);
  charged_ns_ = now;
  if (in_gang_) charged_processor_ns_ = ProcessorNanos();
  // It did not run, and nobody else wanted its turn: no part of the iteration or of its service.
  iteration_begin_ns_ += now - begin;
  if (in_lane_) turn_->Excuse(absl::Nanoseconds(now - begin));
  paced_ns_.fetch_add(now - begin, kRelaxed);
}

int Runtime::OperatorsWanted() {
  return (arena_->recording() ? TIDE_OPERATORS_RECORD : 0) |
         (pace_operators_ ? TIDE_OPERATORS_PACE : 0);
}

void Runtime::SayPace(int64_t now) {
  const sched::PaceState& state = pacer_->state();
  if (said_slowed_ ? state.pace < 1 : state.pace >= kSlowed) return;
  if (said_slowed_) {
    said_slowed_ = false;
    Tell("let_go", absl::StrCat("runs freely again: ", state.reason));
    return;
  }
  if (said_pace_ns_ != 0 && now - said_pace_ns_ < kSayNanos) return;
  const int other = pacer_->slowed_for();
  if (other < 0) return;
  said_pace_ns_ = now;
  said_slowed_ = true;
  const shm::JobSlot& its = device_->slot(SlotId(other));
  Tell("slowed", absl::StrFormat("runs %.1f %% of the time for %s (%s): %s", 100 * state.pace,
                                 std::string(its.name, strnlen(its.name, sizeof its.name)),
                                 sched::PaceLawName(pacer_->law()), state.reason));
}

}  // namespace tide::runtime

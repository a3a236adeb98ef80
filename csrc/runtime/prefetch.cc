// When a job that waits for its turn may have pages back before it.
#include "runtime/cuda_job.h"
#include "runtime/runtime.h"
#include "shm/slot_table.h"

namespace tide::runtime {
namespace {

constexpr int64_t kLookNanos = 90'000'000;   // a little less than a tick of a wait
constexpr int64_t kRoundNanos = 50'000'000;  // then the wait looks whether it is interrupted

}  // namespace

bool Runtime::HolderHasSettled() {
  const std::optional<SlotId> holder = turn_->HolderBefore();
  if (!holder) return false;
  // relaxed: a count, read by itself
  const int64_t iterations = device_->slot(*holder).iterations.load(std::memory_order_relaxed);
  if (*holder != seen_holder_) {
    seen_holder_ = *holder;
    seen_iterations_ = iterations;
  }
  return iterations > seen_iterations_;
}

void Runtime::Prefetch() {
  CudaJob* const cuda = CudaJob::Current();
  if (cuda == nullptr || MustStand()) return;
  const int64_t begin = clock_.MonotonicNanos();
  if (begin - looked_ahead_ns_ >= kLookNanos) {
    looked_ahead_ns_ = begin;
    cuda->LookAhead(HolderHasSettled());
  }
  bool came = false;
  while (!turn_->Granted() && orders_.Empty() && clock_.MonotonicNanos() - begin < kRoundNanos) {
    const absl::MutexLock lock(&prefetch_mu_);
    if (MustStand() || !cuda->Prefetch()) return;
    came = true;
  }
  if (came) device_->Wake(slot_id_);  // and goes on at once
}

}  // namespace tide::runtime

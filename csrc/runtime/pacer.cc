#include "runtime/pacer.h"

#include <algorithm>
#include <utility>

#include "base/atomics.h"
#include "sched/usual_times.h"
#include "shm/slot_table.h"

namespace tide::runtime {
namespace {

constexpr int64_t kSampleNanos = 20'000'000;   // between two samples
constexpr int64_t kFindNanos = 50'000'000;     // between two looks for guaranteed jobs
constexpr int64_t kGoneNanos = 1'000'000'000;  // outside for so long: it trains no more
// A job that makes no progress for so long (debugged, stopped) is not one to protect.
constexpr int64_t kStuckNanos = 10'000'000'000;
constexpr int64_t kStuckUsual = 20;  // the same, for so many times what the stretch usually takes
constexpr absl::Duration kWaitMax = absl::Milliseconds(20);
// The bucket: short enough that a burst is no window's loss, long enough for operators to flow.
constexpr double kBurstNs = 5e6;
constexpr double kFullAfterNs = 1e9;  // at a very low pace less than kBurstNs is a full bucket
constexpr int kReadAttempts = 4;
constexpr double kLate = 1.5;  // a stretch that takes this much longer is counted before its end

}  // namespace

Pacer::Pacer(shm::DeviceFile& device, SlotId self, const sched::PaceOptions& options)
    : device_(device), self_(self), options_(options) {}

bool Pacer::Opportunistic() {
  return own().priority.load(kRelaxed) == 0 && options_.law != sched::PaceLawId::kOff;
}

void Pacer::FindProtected(int64_t now) {
  if (protected_at_ns_ != 0 && now - protected_at_ns_ < kFindNanos) return;
  protected_at_ns_ = now;
  std::vector<Protected> found;
  for (int index = 0; index < shm::kSlotCount; ++index) {
    const shm::JobSlot& slot = device_.slot(SlotId(index));
    if (index == self_.value() || !shm::IsLive(slot) || slot.priority.load(kRelaxed) != 2) continue;
    if ((slot.flags.load(kRelaxed) & (shm::kOrphans | shm::kLeaving)) != 0) continue;
    const int32_t pid = slot.pid.load(kRelaxed);
    const auto known =
        std::find_if(protected_.begin(), protected_.end(),
                     [&](const Protected& one) { return one.slot == index && one.pid == pid; });
    found.push_back(known != protected_.end() ? *known : Protected{.slot = index, .pid = pid});
  }
  protected_ = std::move(found);
}

Pacer::Progress Pacer::Read(const shm::JobSlot& slot, int64_t now) {
  Progress progress;
  int64_t begin = 0, usual = 0, last = 0;
  for (int attempt = 0; attempt < kReadAttempts; ++attempt) {
    // acquire: the fields are not older than the sequence; of a torn read the error is one stretch
    const uint32_t sequence = slot.progress_sequence.load(std::memory_order_acquire);
    progress.usual_ns = static_cast<double>(slot.progress_usual_ns.load(kRelaxed));
    progress.took_ns = static_cast<double>(slot.progress_took_ns.load(kRelaxed));
    begin = slot.stretch_begin_ns.load(kRelaxed);
    usual = slot.stretch_usual_ns.load(kRelaxed);
    last = slot.progress_ns.load(kRelaxed);
    std::atomic_thread_fence(std::memory_order_acquire);  // the fields are not newer either
    if (sequence % 2 == 0 && sequence == slot.progress_sequence.load(kRelaxed)) break;
  }
  progress.step_usual_ns = static_cast<double>(slot.step_usual_ns.load(kRelaxed));
  progress.step_took_ns = static_cast<double>(slot.step_took_ns.load(kRelaxed));
  progress.steps = slot.iterations.load(kRelaxed);
  progress.learnt = progress.step_usual_ns > 0;
  const int64_t patience =
      usual > 0 ? std::min(kStuckNanos, kGoneNanos + kStuckUsual * usual) : kStuckNanos;
  progress.inside = begin != 0 && now - begin < patience;
  progress.active = progress.inside || (begin == 0 && last != 0 && now - last < kGoneNanos);
  const auto late = static_cast<double>(now - begin);
  if (progress.inside && usual > 0 && late > kLate * static_cast<double>(usual)) {
    progress.usual_ns += static_cast<double>(usual);
    progress.took_ns += sched::UsualTimes::WithoutOutlier(late, static_cast<double>(usual));
  }
  return progress;
}

void Pacer::Look(int64_t now) {
  looked_ns_ = now;
  FindProtected(now);
  sched::PaceSample sample;
  any_active_ = any_inside_ = false;
  slowed_for_ = -1;
  double worst = 0;
  for (Protected& one : protected_) {
    const Progress before = one.seen;
    one.seen = Read(device_.slot(SlotId(one.slot)), now);
    const bool fresh = std::exchange(one.fresh, false);
    any_inside_ = any_inside_ || one.seen.inside;
    if (!one.seen.active) continue;
    any_active_ = true;
    sample.guaranteed = true;
    sample.learnt = sample.learnt && one.seen.learnt;
    if (slowed_for_ < 0) slowed_for_ = one.slot;
    if (fresh) continue;
    const double usual = one.seen.usual_ns - before.usual_ns;
    const double took = one.seen.took_ns - before.took_ns;
    const double ratio = usual > 0 && took > 0 ? took / usual : 0;
    const int64_t steps = one.seen.steps - before.steps;
    if (ratio < worst || (ratio == 0 && steps == 0)) continue;
    worst = ratio;
    slowed_for_ = one.slot;
    sample.usual_ns = usual;
    sample.took_ns = took;
    sample.steps = steps;
    sample.step_usual_ns = one.seen.step_usual_ns;
    sample.step_took_ns = one.seen.step_took_ns;
  }
  state_ = sched::NextPace(state_, sample, options_);
  Publish(now);
}

void Pacer::Publish(int64_t now) {
  shm::JobSlot& slot = own();
  // relaxed throughout: shown to people, each number by itself
  slot.pace_ppm.store(static_cast<uint32_t>(state_.pace * shm::kPaceWhole + 0.5), kRelaxed);
  slot.pace_law.store(static_cast<uint32_t>(options_.law), kRelaxed);
  slot.pace_for.store(state_.pace < 1 ? slowed_for_ : -1, kRelaxed);
  slot.pace_loss_ppm.store(static_cast<int32_t>(state_.loss * 1e6), kRelaxed);
  if (state_.cut) slot.pace_cut_ns.store(now, kRelaxed);
}

bool Pacer::WantsOperators(int64_t now) {
  if (!Opportunistic()) return false;
  FindProtected(now);
  return !protected_.empty();
}

void Pacer::Refill(int64_t now) {
  const auto passed = static_cast<double>(now - refilled_ns_);
  refilled_ns_ = now;
  // In a gap between two iterations of the guaranteed jobs nobody is disturbed.
  tokens_ns_ += (any_inside_ ? state_.pace : 1) * passed;
  if (runs_) tokens_ns_ -= passed;
  tokens_ns_ = std::min(tokens_ns_, kBurstNs);
  if (state_.pace >= 1) tokens_ns_ = std::max(tokens_ns_, 0.0);  // nobody minds what it ran
}

bool Pacer::MayRun(int64_t now) {
  if (!Opportunistic()) {
    if (state_.pace < 1) {
      state_ = {.reason = "it is not an opportunistic job now"};
      slowed_for_ = -1;
      Publish(now);
    }
    tokens_ns_ = 0;
    waits_ = false;
    refilled_ns_ = now;
    return true;
  }
  const bool first = looked_ns_ == 0;
  if (first || now - looked_ns_ >= kSampleNanos) Look(now);
  // Who comes to a guaranteed job begins slowly.
  if (first && any_active_) {
    state_.pace = options_.pace_min;
    state_.reason = "it begins slowly beside a guaranteed job";
    Publish(now);
  }
  Refill(now);
  const double full = std::min(kBurstNs, kFullAfterNs * state_.pace);
  if (state_.pace >= 1 || tokens_ns_ >= full) {
    waits_ = false;
  } else if (tokens_ns_ < 0) {
    waits_ = true;
  }
  return !waits_;
}

void Pacer::Excuse(int64_t waited_ns) {
  tokens_ns_ = std::min(tokens_ns_ + static_cast<double>(waited_ns), kBurstNs);
  if (tokens_ns_ >= 0) waits_ = false;
}

absl::Duration Pacer::Wait() const {
  const double full = std::min(kBurstNs, kFullAfterNs * state_.pace);
  const double rate = any_inside_ ? state_.pace : 1;
  return std::clamp(absl::Nanoseconds((full - tokens_ns_) / rate), absl::Microseconds(100),
                    kWaitMax);
}

void Pacer::Run(int64_t now) {
  Refill(now);
  runs_ = true;
  // relaxed: nothing of the job before it is disturbed by what it does later
  own().stopped_ns.store(0, kRelaxed);
}

void Pacer::Stop(int64_t now) {
  if (!runs_) return;
  Refill(now);
  runs_ = false;
  own().stopped_ns.store(now, std::memory_order_release);  // release: pairs with the meter's look
}

}  // namespace tide::runtime

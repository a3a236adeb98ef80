// Budgets, demotion, suspension and asking others: what moves memory, always at a quiet point.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/options.h"
#include "base/status.h"
#include "runtime/cuda_job.h"
#include "runtime/runtime.h"
#include "runtime/sampler.h"
#include "sched/victims.h"
#include "shm/futex.h"
#include "shm/slot_table.h"

namespace tide::runtime {
namespace {

// Of a device that is full.
constexpr Bytes kNarrowWindow = MiB(16);
// Demoting widens the window that streaming needs, which demotes a little more: at most so often.
constexpr int kPlanRounds = 6;
constexpr int64_t kAskedRecentlyNanos = 3'000'000'000;

double Seconds(int64_t nanos) { return static_cast<double>(nanos) * 1e-9; }

/// Exponential mean of a measured rate; small moves say little about a disk.
double Blend(double old_rate, Bytes moved, int64_t nanos) {
  if (moved < MiB(16) || nanos <= 0) return old_rate;
  return 0.5 * old_rate + 0.5 * static_cast<double>(moved.value()) / Seconds(nanos);
}

}  // namespace

absl::Status Runtime::EnsureSpill() {
  absl::MutexLock lock(&spill_mu_);
  if (spill_) return absl::OkStatus();
  pages::SpillOptions options;
  options.dir = TextOption("spill.dir");
  options.size_max = Bytes(BytesOption("spill.max"));
  options.disk_free_min = Bytes(BytesOption("spill.free_min"));
  TIDE_ASSIGN_OR_RETURN(spill_, pages::SpillFile::Open(options));
  arena_->SetSpill(spill_.get());
  return absl::OkStatus();
}

BudgetState Runtime::MeasureBudget() {
  const arena::ArenaStats stats = arena_->Stats();
  shm::JobSlot& own = slot();
  BudgetState state;
  state.limit = account_.limit();
  state.outside = Bytes(own.outside_bytes.load(std::memory_order_relaxed));
  state.lane_peak = Bytes(own.scratch_peak_bytes.load(std::memory_order_relaxed));
  state.alive = stats.committed_bytes - stats.cached_bytes;
  state.cached = stats.cached_bytes;
  state.demoted = stats.demoted_bytes;
  state.pinned = stats.pinned_bytes;
  for (Bytes scratch : scratch_history_)
    state.private_scratch = std::max(state.private_scratch, scratch);
  state.largest_operator = stats.largest_operator_bytes;
  const Bytes capacity = device_->Capacity();
  state.device_free = capacity > Bytes(0) ? capacity - device_->Used() : GiB(1 << 20);
  state.window = PlanWindow(state, arena_->StreamingDepth());
  state.asked = Bytes(own.reclaim_bytes.load(std::memory_order_acquire));
  const Bytes request = state.asked;
  if (state.device_free < Bytes(0)) state.asked += -state.device_free;
  state.guaranteed = Bytes(own.budget_bytes_guaranteed.load(std::memory_order_relaxed));
  const int64_t done = iterations_.load(std::memory_order_relaxed);
  state.measured = done > 0 && !Learning(done - 1);
  state.trim_scratch = trim_scratch_;
  const int64_t now = clock_.MonotonicNanos();
  if (request > Bytes(0)) asked_at_ns_ = now;
  state.recently_asked = asked_at_ns_ > 0 && now - asked_at_ns_ < kAskedRecentlyNanos;
  return state;
}

void Runtime::ApplyBudget() {
  const Bytes request(slot().reclaim_bytes.load(std::memory_order_acquire));
  BudgetState state = MeasureBudget();
  bool moved = false;
  for (int round = 0; round < kPlanRounds; ++round) {
    if (!MoveByPlan(state)) break;
    moved = true;
    const bool asked = state.asked > Bytes(0);
    if (asked) break;  // what was asked for is given once
    state = MeasureBudget();
  }
  if (moved) SampleSoon();
  // Answered once, by what could be given: whoever still needs asks again.
  if (request > Bytes(0))
    slot().reclaim_bytes.fetch_sub(request.value(), std::memory_order_release);
  absl::MutexLock lock(&report_mu_);
  report_.budget = state;
  report_.smallest = SmallestPossibleLimit(state);
  report_.predicted_suspend_seconds =
      static_cast<double>((state.alive - state.pinned).value()) / demote_bytes_per_s_;
  report_.predicted_resume_seconds =
      static_cast<double>((state.alive + state.demoted).value()) / promote_bytes_per_s_;
}

bool Runtime::MoveByPlan(const BudgetState& state) {
  BudgetPlan plan = PlanBudget(state);
  const int64_t begin = clock_.MonotonicNanos();
  if (plan.trim) arena_->Trim(plan.trim_keep);
  trim_scratch_ = false;
  if (BoolOption("test.always_spill")) {
    plan.demote = PagesFor(state.alive);
    plan.promote = PageCount(0);
  }
  bool demoted = false;
  if (plan.demote > PageCount(0)) {
    absl::Status ready = EnsureSpill();
    const arena::MoveReport moved =
        ready.ok() ? arena_->Demote(plan.demote) : arena::MoveReport{{}, plan.demote, ready, ""};
    demote_bytes_per_s_ =
        Blend(demote_bytes_per_s_, moved.moved.bytes(), clock_.MonotonicNanos() - begin);
    demoted = moved.moved > PageCount(0);
    if (moved.moved > PageCount(0) || !moved.status.ok()) {
      Tell("demote",
           absl::StrCat("demoted ", FormatBytes(moved.moved.bytes()), " (", plan.reason, "; ",
                        moved.reason, ")",
                        moved.status.ok() ? "" : absl::StrCat("; then: ", moved.status.message())));
    }
  }
  if (plan.promote > PageCount(0)) {
    const arena::MoveReport moved = arena_->Promote(plan.promote);
    promote_bytes_per_s_ =
        Blend(promote_bytes_per_s_, moved.moved.bytes(), clock_.MonotonicNanos() - begin);
  }
  return demoted;
}

GrantResult Runtime::ApplyGrant(const GrantRequest& grant) {
  GrantResult result;
  result.revision = grant.revision;
  const int64_t begin = clock_.MonotonicNanos();
  const BudgetState before = MeasureBudget();
  const SmallestLimit smallest = SmallestPossibleLimit(before);
  result.parts = {{"outside", smallest.outside},
                  {"pinned", smallest.pinned},
                  {"scratch", smallest.scratch},
                  {"window", smallest.window},
                  {"smallest", smallest.total}};
  if (before.measured && grant.limit > Bytes(0) && grant.limit < smallest.total) {
    result.status = GrantStatus::kConflict;
    result.overage = smallest.total - grant.limit;
    result.text = absl::StrCat(
        "the limit of ", FormatBytes(grant.limit), " is ", FormatBytes(result.overage),
        " below the smallest possible, ", FormatBytes(smallest.total), " (outside of tensors ",
        FormatBytes(smallest.outside), ", pinned ", FormatBytes(smallest.pinned),
        ", scratch of its largest operator ", FormatBytes(smallest.scratch), ", window ",
        FormatBytes(smallest.window), "); the old limit stays");
    return result;
  }
  if (grant.limit > Bytes(0)) {
    if (absl::Status spill = EnsureSpill(); !spill.ok()) {
      result.status = GrantStatus::kConflict;
      result.text = absl::StrCat("no limit can be kept: ", spill.message());
      return result;
    }
  }
  account_.SetLimit(grant.limit);
  slot().budget_bytes_max.store(grant.limit.value(), std::memory_order_relaxed);
  slot().budget_bytes_guaranteed.store(grant.guaranteed.value(), std::memory_order_relaxed);
  // release: whoever reports the revision reports its limit
  slot().budget_revision.store(grant.revision, std::memory_order_release);
  ApplyBudget();
  const arena::ArenaStats after = arena_->Stats();
  const Bytes held_before = before.alive + before.cached;
  const Bytes moved = held_before - after.committed_bytes;
  result.moved = moved < Bytes(0) ? -moved : moved;
  result.took = absl::Nanoseconds(clock_.MonotonicNanos() - begin);
  const Bytes resident = after.committed_bytes + before.outside + before.lane_peak;
  if (grant.limit > Bytes(0) && resident > grant.limit) {
    result.status = GrantStatus::kDeferred;
    result.overage = resident - grant.limit;
    result.text = absl::StrCat(FormatBytes(result.overage),
                               " are still above the limit; the next iterations move them");
  } else {
    result.text = absl::StrCat("now at ", FormatBytes(resident));
  }
  return result;
}

bool Runtime::AskOthers(Bytes bytes, bool busy_too) {
  std::vector<sched::VictimMember> members;
  for (int i = 0; i < shm::kSlotCount; ++i) {
    shm::JobSlot& other = device_->table().slots[i];
    if (!shm::IsLive(other) || shm::IsLeaving(other)) continue;
    sched::VictimMember member;
    member.id = SlotId(i);
    member.resident = Bytes(other.private_bytes.load(std::memory_order_relaxed));
    const Bytes outside(other.outside_bytes.load(std::memory_order_relaxed));
    const Bytes guaranteed(other.budget_bytes_guaranteed.load(std::memory_order_relaxed));
    member.guaranteed = std::max(guaranteed - outside, Bytes(0));
    member.reclaimable =
        member.resident - Bytes(other.reclaim_bytes.load(std::memory_order_relaxed));
    member.priority = static_cast<sched::Priority>(other.priority.load(std::memory_order_relaxed));
    member.last_run = absl::Nanoseconds(other.heartbeat_ns.load(std::memory_order_relaxed));
    // Who is in the middle of an iteration answers at its end only.
    const auto phase = static_cast<shm::Phase>(other.phase.load(std::memory_order_relaxed));
    const bool quiet = phase == shm::Phase::kWaiting || phase == shm::Phase::kPaused;
    if (!busy_too && !quiet) member.reclaimable = Bytes(0);
    members.push_back(member);
  }
  const sched::VictimChoice choice = sched::ChooseVictims(members, bytes, slot_id_);
  if (!choice.victims.empty() || busy_too) Tell("need_memory", choice.reason);
  for (const sched::Victim& victim : choice.victims) {
    device_->slot(victim.id).reclaim_bytes.fetch_add(victim.bytes.value(),
                                                     std::memory_order_release);
    device_->Wake(victim.id);
  }
  return !choice.victims.empty();
}

bool Runtime::NeedMemory(Bytes bytes, bool last_resort) {
  // Those who had nothing a moment ago are not asked again for every block.
  constexpr int64_t kBackoffNanos = 500'000'000;
  const int64_t now = clock_.MonotonicNanos();
  if (!last_resort && now - asked_in_vain_ns_.load(std::memory_order_relaxed) < kBackoffNanos)
    return false;
  EnsureSpill().IgnoreError();  // the file tier is the next thing to try
  uint32_t seen = device_->FreedWord();
  if (!AskOthers(bytes, last_resort)) {
    asked_in_vain_ns_.store(now, std::memory_order_relaxed);
    return false;
  }
  const int64_t patience_ms = last_resort ? IntOption("need.wait_ms") : 200;
  const int64_t deadline = now + patience_ms * 1'000'000;
  for (;;) {
    const Bytes capacity = device_->Capacity();
    if (capacity == Bytes(0) || device_->Used() + bytes <= capacity) return true;
    const int64_t left = deadline - clock_.MonotonicNanos();
    if (left <= 0) break;
    device_->WaitFreed(seen, absl::Nanoseconds(left));
    seen = device_->FreedWord();
  }
  asked_in_vain_ns_.store(clock_.MonotonicNanos(), std::memory_order_relaxed);
  return true;  // something may have been freed; trying once more decides
}

void Runtime::RelieveDevice() {
  // Interpreters and libraries grow without asking. Whoever runs notices, streams through a smaller
  // window at once, and asks those who wait; those in the middle of an iteration see it at their
  // own boundary.
  const Bytes capacity = device_->Capacity();
  if (capacity == Bytes(0)) return;
  const Bytes over = device_->Used() - capacity;
  if (over <= Bytes(0)) return;
  {
    absl::MutexLock lock(&spill_mu_);
    if (spill_) pager_->SetWindow(kNarrowWindow, spill_->fd());
  }
  const auto phase = static_cast<shm::Phase>(slot().phase.load(std::memory_order_relaxed));
  if (phase == shm::Phase::kRunning) AskOthers(over, /*busy_too=*/false);
}

absl::Status Runtime::Suspend(bool deep) {
  if (suspended_.load(std::memory_order_relaxed)) return absl::OkStatus();
  TIDE_RETURN_IF_ERROR(EnsureSpill());
  CudaJob* const cuda = CudaJob::Current();
  if (cuda == nullptr) return SuspendHost();
  const int64_t begin = clock_.MonotonicNanos();
  const int away_before = cuda->suspended_devices();
  absl::Status status = cuda->SuspendAll().status();
  if (status.ok()) {
    status = SuspendHost();
    if (!status.ok()) cuda->ResumeAll().IgnoreError();  // what stays away is seen below
  }
  if (!status.ok() && cuda->suspended_devices() > away_before) {
    // Its addresses are empty: the job must not run until a resume has brought the rest back.
    suspended_.store(true, std::memory_order_relaxed);
    slot().phase.store(static_cast<uint32_t>(shm::Phase::kPaused), std::memory_order_relaxed);
  }
  if (status.ok()) {
    absl::MutexLock lock(&report_mu_);
    report_.suspend_seconds = Seconds(clock_.MonotonicNanos() - begin);
  }
  deep_ = deep || TextOption("cuda.pause") == "deep";
  if (status.ok() && deep_) cuda->PauseDeeply();
  return status;
}

absl::Status Runtime::SuspendHost() {
  const int64_t begin = clock_.MonotonicNanos();
  arena_->Trim(PageCount(0));
  const Bytes before = arena_->Stats().committed_bytes;
  const arena::MoveReport moved = arena_->Demote(PageCount(int64_t{1} << 40));
  if (!moved.status.ok()) {
    const arena::MoveReport back = arena_->Promote(moved.moved);
    return absl::Status(moved.status.code(),
                        absl::StrCat(moved.status.message(), "; ", FormatBytes(moved.moved.bytes()),
                                     " of ", FormatBytes(before), " had moved and came back",
                                     back.status.ok() ? "" : " in part"));
  }
  const int64_t took = clock_.MonotonicNanos() - begin;
  demote_bytes_per_s_ = Blend(demote_bytes_per_s_, moved.moved.bytes(), took);
  suspended_.store(true, std::memory_order_relaxed);
  slot().phase.store(static_cast<uint32_t>(shm::Phase::kPaused), std::memory_order_relaxed);
  absl::MutexLock lock(&report_mu_);
  report_.suspend_seconds = Seconds(took);
  report_.predicted_resume_seconds =
      static_cast<double>(moved.moved.bytes().value()) / promote_bytes_per_s_;
  return absl::OkStatus();
}

absl::Status Runtime::Resume() {
  if (!suspended_.load(std::memory_order_relaxed)) return absl::OkStatus();
  const int64_t begin = clock_.MonotonicNanos();
  // Unlike the host's pages, a device's must be there before anything runs.
  if (CudaJob* cuda = CudaJob::Current()) {
    // A job whose contexts are away could not even wait for its turn: it stays paused.
    TIDE_RETURN_IF_ERROR(cuda->Thaw());
    absl::Status back = absl::ResourceExhaustedError("others have the device");
    if (!turn_follows_ || cuda->SuspensionFits()) back = cuda->ResumeAll();
    // Who has the turn needs the device; this job's pages return with its own.
    if (turn_follows_ && absl::IsResourceExhausted(back)) {
      cuda->LeaveSuspensionAside();
    } else {
      TIDE_RETURN_IF_ERROR(back);
    }
  }
  suspended_.store(false, std::memory_order_relaxed);
  if (!queued_) BringBack();
  const int64_t took = clock_.MonotonicNanos() - begin;
  absl::MutexLock lock(&report_mu_);
  report_.resume_seconds = Seconds(took);
  return absl::OkStatus();
}

PageCount Runtime::BringBack() {
  // As much as the budget and the device allow; what does not fit streams.
  const int64_t begin = clock_.MonotonicNanos();
  const BudgetPlan plan = PlanBudget(MeasureBudget());
  const arena::MoveReport moved = arena_->Promote(plan.promote);
  promote_bytes_per_s_ =
      Blend(promote_bytes_per_s_, moved.moved.bytes(), clock_.MonotonicNanos() - begin);
  return moved.moved;
}

bool Runtime::MayMove(Returns returns) {
  const CudaJob* cuda = CudaJob::Current();
  if (cuda == nullptr || suspended_.load(std::memory_order_relaxed) || !cuda->HoldsMemory())
    return true;
  return returns != Returns::kToProgram && !cuda->Capturing();
}

absl::StatusOr<Bytes> Runtime::LimitDevice(int device, Bytes limit) {
  CudaJob* const cuda = CudaJob::Current();
  const auto figures = cuda != nullptr ? cuda->Figures() : std::vector<CudaFigures>();
  const bool used = std::any_of(figures.begin(), figures.end(),
                                [&](const CudaFigures& one) { return one.index == device; });
  if (!used) {
    return absl::FailedPreconditionError(
        absl::StrCat("the job has no memory of device ", device, " behind our limits"));
  }
  return cuda->MoveLimit(device, limit);
}

std::string Runtime::SayHowDeep(bool asked) const {
  CudaJob* const cuda = CudaJob::Current();
  if (cuda != nullptr) return deep_ ? cuda->DeepWords() : "";
  return asked ? "its contexts stayed: it has none, since it uses no device" : "";
}

void Runtime::CarryOutMove(const Orders::PendingMove& move) {
  MoveResult result;
  const int64_t begin = clock_.MonotonicNanos();
  const bool was_suspended = suspended_.load(std::memory_order_relaxed);
  suspend_waits_ns_ = 0;
  if (clock_.Now() > move.request.deadline) {
    result.status =
        absl::DeadlineExceededError("the deadline had passed before the job came to a boundary");
  } else if (move.request.kind == MoveKind::kLimitDevice) {
    const auto moved = LimitDevice(move.request.device, move.request.limit);
    result.status = moved.status();
    if (moved.ok() && *moved > Bytes(0))
      result.text = absl::StrCat("moved ", FormatBytes(*moved), " off the device");
  } else {
    const bool suspend = move.request.kind == MoveKind::kSuspend;
    result.status = suspend ? Suspend(move.request.deep) : Resume();
    if (suspend && result.status.ok()) result.text = SayHowDeep(move.request.deep);
  }
  result.took = absl::Nanoseconds(clock_.MonotonicNanos() - begin);
  const bool is_suspended = suspended_.load(std::memory_order_relaxed);
  if (!result.status.ok() && is_suspended != was_suspended) {
    absl::MutexLock lock(&link_mu_);
    if (link_) link_->SetPaused(is_suspended);  // a failed order does not say so
  }
  if (move.done) move.done(result);
}

void Runtime::CarryOutOrders(Returns returns) {
  bool moved = false;
  while (auto grant = orders_.TakeGrant()) {
    const GrantResult result = ApplyGrant(grant->request);
    if (grant->done) grant->done(result);
    moved = true;
  }
  while (!orders_.Empty() && MayMove(returns)) {
    if (returns != Returns::kWhenResumed && SuspendWaitsForGang()) break;
    const auto move = orders_.TakeMove();
    if (!move) break;
    CarryOutMove(*move);
    moved = true;
  }
  const bool asked = slot().reclaim_bytes.load(std::memory_order_acquire) > 0;
  if (suspended_.load(std::memory_order_relaxed)) {
    slot().reclaim_bytes.store(0, std::memory_order_relaxed);  // there is nothing left to give
  } else if (asked && !moved) {
    ApplyBudget();
  }
}

void Runtime::StartStreaming() {
  // Ready before the first page is demoted: with a limit, blocks over it are born in the file tier.
  int fd = -1;
  {
    absl::MutexLock lock(&spill_mu_);
    if (spill_) fd = spill_->fd();
  }
  if (fd < 0) return;
  const Bytes window = MeasureBudget().window;
  account_.SetWindow(window, arena_->Stats().demoted_bytes > Bytes(0));
  pager_->SetWindow(window, fd);
  pager_->BeginIteration(arena_->StreamVisits());
}

}  // namespace tide::runtime

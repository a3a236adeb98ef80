// The boundary between iterations: survivors leave the lane, the turn passes, orders are carried
// out, the next turn begins.
#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "base/log.h"
#include "base/options.h"
#include "base/status.h"
#include "lane/holder_watch.h"
#include "lane/members.h"
#include "runtime/cuda_job.h"
#include "runtime/runtime.h"
#include "shm/futex.h"
#include "shm/slot_table.h"

namespace tide::runtime {
namespace {

constexpr size_t kScratchHistory = 8;
// Iterations recorded when something has to be demoted and nothing is known yet of what operators
// touch.
constexpr int kRecordIterations = 1;
constexpr int64_t kSayAwayNanos = 10'000'000'000;
constexpr int64_t kFirstMoveNanos = 1'000'000'000;

}  // namespace

int Runtime::LaneMembers() {
  lane::Members members;
  lane::GatherMembers(device_->table(), lane_, SlotId(), members);
  return static_cast<int>(members.size());
}

bool Runtime::SharesDevices() {
  const CudaJob* const cuda = CudaJob::Current();
  return cuda != nullptr && cuda->CanShare() && in_lane_ && gang_ == nullptr &&
         BoolOption("cuda.lanes") && !Learning(iterations_.load(std::memory_order_relaxed)) &&
         (cuda->InLane() || LaneMembers() > 1);
}

void Runtime::ChooseScratch() {
  shares_devices_ = SharesDevices();
  // seq_cst, and before the turn is taken: whoever finds this job stuck must know of it
  if (shares_devices_) slot().flags.fetch_or(shm::kOnChunks);
}

bool Runtime::Learning(int64_t index) {
  return index < IntOption("memory.learn_from") + IntOption("memory.learn_iterations");
}

absl::Status Runtime::EndIteration(bool continuing) {
  if (!iteration_open_) return absl::OkStatus();
  AwaitDeviceWork();
  const int64_t now = clock_.MonotonicNanos();
  EndPace(now);
  CudaJob* const cuda = CudaJob::Current();
  const absl::Status left = arena_->EndIteration();
  const absl::Status closed = cuda != nullptr ? cuda->CloseLane() : absl::OkStatus();
  iteration_open_ = false;
  survivors_stay_ = !left.ok() || !closed.ok();
  if (!closed.ok()) SayOpen(closed);
  // A gang gives its turn away where all its ranks have stopped: in LeadGang.
  keep_turn_ = survivors_stay_ || (continuing && (now < hold_until_ns_ || LeadsGang()));
  if (on_seat_ && !survivors_stay_) {
    on_seat_ = false;
    gang_->LeaveSeat();
  }
  pager_->EndIteration();
  const int64_t iterations = iterations_.fetch_add(1, std::memory_order_relaxed) + 1;
  const arena::ArenaStats stats = arena_->Stats();
  shm::JobSlot& own = slot();
  own.last_iteration_ns.store(now - iteration_begin_ns_, std::memory_order_relaxed);
  own.heartbeat_ns.store(now, std::memory_order_relaxed);
  own.persistent_bytes.store(stats.persistent_bytes.value(), std::memory_order_relaxed);
  own.scratch_peak_bytes.store(PagesFor(stats.lane_peak_bytes).bytes().value(),
                               std::memory_order_relaxed);
  scratch_history_.push_back(stats.private_scratch_bytes);
  if (scratch_history_.size() > kScratchHistory) scratch_history_.pop_front();
  if (lane_was_used_ && !trimmed_) {
    // The lane carries this iteration's scratch from now on: the private copy of it is given back
    // once.
    trimmed_ = true;
    trim_scratch_ = true;
    scratch_history_.assign(1, stats.private_scratch_bytes);
  }
  if (in_lane_) turn_->RecordIteration(absl::Nanoseconds(now - iteration_begin_ns_));
  own.iterations.store(iterations, std::memory_order_relaxed);
  PredictRemaining(now - iteration_begin_ns_);
  if (in_lane_ && !keep_turn_) {
    if (LaneMembers() > 1) FinishDeviceWork();
    turn_->SetLearning(Learning(iterations));
    // Who has run more than its share asks for no turn yet.
    turn_->Release(continuing && !WaitsForPace());
  }
  // Without the turn, unless it is kept: others compute while this job moves its memory.
  CarryOutOrders(continuing && !survivors_stay_ ? Returns::kToNextIteration : Returns::kToProgram);
  if (cuda != nullptr) cuda->AtBoundary();
  if (BoolOption("test.always_suspend") && (cuda == nullptr || !cuda->Capturing())) {
    TIDE_RETURN_IF_ERROR(Suspend());
    TIDE_RETURN_IF_ERROR(Resume());
  }
  // A suspended job's pages stay out until it is resumed, whatever room there is.
  if (!suspended_.load(std::memory_order_relaxed)) ApplyBudget();
  absl::MutexLock lock(&report_mu_);
  report_.gate_seconds_last = static_cast<double>(clock_.MonotonicNanos() - now) * 1e-9;
  return left;
}

void Runtime::SayOpen(const absl::Status& status) {
  const int64_t now = clock_.MonotonicNanos();
  if (now < say_away_ns_) return;
  say_away_ns_ = now + kSayAwayNanos;
  Log(LogLevel::kWarning, absl::StrCat("event=turn_kept status=\"", status.ToString(), "\""));
}

void Runtime::ExpectIterations(int64_t count) {
  if (options_.iterations > 0) return;  // the user has said how many the whole job has
  const int64_t done = iterations_.load(std::memory_order_relaxed);
  iterations_expected_.store(count > 0 ? done + count : 0, std::memory_order_relaxed);
}

void Runtime::PredictRemaining(int64_t last_iteration_ns) {
  constexpr double kKept = 0.8;  // of the mean, at each iteration
  const int64_t done = iterations_.load(std::memory_order_relaxed);
  double iteration_ns = static_cast<double>(last_iteration_ns);
  if (Learning(done)) {
    // Its first iterations are slow and say little; those of its neighbours are the better guess.
    const double others = MeanIterationOfOthers();
    if (others > 0) iteration_ns = others;
  } else {
    mean_iteration_ns_ = mean_iteration_ns_ > 0
                             ? kKept * mean_iteration_ns_ + (1 - kKept) * iteration_ns
                             : iteration_ns;
    iteration_ns = mean_iteration_ns_;
  }
  const int64_t expected = options_.iterations > 0
                               ? options_.iterations
                               : iterations_expected_.load(std::memory_order_relaxed);
  // More iterations than were said: nothing is known any more.
  const bool known = expected >= done && expected > 0 && iteration_ns > 0;
  const double remaining_ns = static_cast<double>(expected - done) * iteration_ns;
  slot().remaining_ns.store(known ? static_cast<int64_t>(remaining_ns) : -1,
                            std::memory_order_relaxed);  // relaxed: one number
}

double Runtime::MeanIterationOfOthers() {
  lane::Members members;
  lane::GatherMembers(device_->table(), lane_, slot_id_, members);
  double sum_ns = 0;
  int measured = 0;
  for (const sched::TurnMember& member : members) {
    if (member.learning || member.last_iteration <= absl::ZeroDuration()) continue;
    sum_ns += absl::ToDoubleNanoseconds(member.last_iteration);
    ++measured;
  }
  return measured > 0 ? sum_ns / measured : 0;
}

void Runtime::UpdateRecording() {
  // Called between iterations. Recorded: the learnt iterations, and every iteration that streams,
  // since its order may change.
  const int64_t next = iterations_.load(std::memory_order_relaxed);
  const int64_t learn_from = IntOption("memory.learn_from");
  const int64_t learn_to = learn_from + IntOption("memory.learn_iterations");
  const bool learning = next >= learn_from && next < learn_to;
  // With a limit that was not measured yet, blocks may be born in the file tier at any time.
  const bool unmeasured_limit = account_.limit() > Bytes(0) && next < learn_to;
  const bool streaming = arena_->Stats().demoted_bytes > Bytes(0) || unmeasured_limit;
  arena_->set_recording(false);
  if (learning || streaming || record_iterations_ > 0) {
    if (record_iterations_ > 0) --record_iterations_;
    arena_->set_recording(true);
  }
}

absl::Status Runtime::BeginIteration(int phase, const std::function<bool()>& interrupted) {
  if (iteration_open_) return absl::OkStatus();
  const int64_t begin = clock_.MonotonicNanos();
  const int64_t paced = paced_ns_.load(std::memory_order_relaxed);
  if (const absl::Status taken = TakeTurn(phase, interrupted); !taken.ok()) {
    LeaveMeter();
    return taken;
  }
  const int64_t slowed = paced_ns_.load(std::memory_order_relaxed) - paced;
  waited_ns_.fetch_add(clock_.MonotonicNanos() - begin - slowed, std::memory_order_relaxed);
  const bool use_lane = (in_lane_ || on_seat_) && arena_->lane_attached() && LaneMembers() > 1;
  lane_was_used_ = use_lane && !Learning(iterations_.load(std::memory_order_relaxed));
  UpdateRecording();
  StartStreaming();
  slot().phase.store(static_cast<uint32_t>(shm::Phase::kRunning), std::memory_order_relaxed);
  iteration_begin_ns_ = clock_.MonotonicNanos();
  arena_->BeginIteration(phase, use_lane);
  BeginPace(iteration_begin_ns_);
  if (shares_devices_) CudaJob::Current()->OpenLane();
  iteration_open_ = true;
  return absl::OkStatus();
}

absl::Status Runtime::TakeTurn(int phase, const std::function<bool()>& interrupted) {
  if (in_gang_) EnterGang();
  if (options_.lane >= 0 && !in_lane_ && !in_gang_) {
    turn_ = std::make_unique<lane::Turn>(*device_, slot_id_, clock_);
    TIDE_RETURN_IF_ERROR(JoinLane(LaneId(DecideAdmission().lane)));
  }
  turn_follows_ = true;
  const absl::Cleanup no_turn_follows = [this] { turn_follows_ = false; };
  for (;;) {
    while (moving_.load(std::memory_order_acquire) > 0) {
      shm::FutexWait(slot().wake_word, slot().wake_word.load(), absl::Milliseconds(5));
    }
    CarryOutOrders(Returns::kToNextIteration);
    SayStands();
    if (suspended_.load(std::memory_order_relaxed) || WaitsForAdmission()) {
      if (interrupted && interrupted())
        return Interrupted("interrupted while paused or waiting to be admitted");
      LeaveMeter();  // whoever stands still is slowed by nobody
      if (in_lane_) GiveKeptTurn();
      SleepUntilOrdered();
      continue;
    }
    const bool follows = gang_ != nullptr && gang_->lane() != LaneId();  // its leader is slowed
    if (!follows && !(in_lane_ && keep_turn_ && turn_->Holds()) && WaitsForPace()) {
      if (interrupted && interrupted()) return Interrupted("interrupted while slowed");
      if (in_lane_) turn_->SetReady(false);
      SleepForPace();
      continue;
    }
    AskMeter(phase);
    if (gang_ != nullptr) {
      TIDE_ASSIGN_OR_RETURN(const bool ready, MeetGang(interrupted));
      if (!ready) continue;
    }
    if (!in_lane_) {
      if (DevicesAreBack()) return absl::OkStatus();
      if (interrupted && interrupted()) return Interrupted("interrupted without device memory");
      SleepUntilOrdered();
      continue;
    }
    if (keep_turn_ && turn_->Holds() && DevicesAreBack()) return absl::OkStatus();
    if (iterations_.load(std::memory_order_relaxed) == 0) PredictRemaining(0);
    bool stop = false;
    ChooseScratch();
    const absl::Status status = AcquireTurn(interrupted, stop);
    if (status.ok() && MustStand()) {
      turn_->Release(/*continuing=*/false);  // it came while a pause was carried out
      continue;
    }
    if (status.ok() && !DevicesAreBack()) {
      turn_->Release(/*continuing=*/false);  // somebody else may be able to run
      if (interrupted && interrupted()) return Interrupted("interrupted without device memory");
      SleepUntilOrdered();
      continue;
    }
    if (status.ok() && !turn_->Holds()) continue;  // passed over while its memory came
    if (status.ok()) {
      if (LeadsGang() && GangStands()) continue;
      MapScratch();
      if (LeadsGang()) gang_->Open(step_, WantsClose());
      return absl::OkStatus();
    }
    if (!absl::IsCancelled(status)) return status;
    if (stop) return Interrupted("interrupted while waiting for the turn");
  }
}

absl::Status Runtime::AcquireTurn(const std::function<bool()>& interrupted, bool& stop) {
  lane::WaitHooks hooks;
  hooks.on_wake = [this] {
    CarryOutOrders(Returns::kToNextIteration);
    if (CudaJob* cuda = CudaJob::Current();
        cuda != nullptr && cuda->AtBoundary(CudaJob::Idle::kYes).asked > Bytes(0)) {
      seen_holder_ = SlotId();
    }
    if (LeadsGang()) gang_->HoldWhoWaits();
    LeaveStuckHolder();
    Prefetch();
  };
  hooks.cancelled = [&] {
    stop = interrupted && interrupted();
    return stop || suspended_.load(std::memory_order_relaxed) ||
           (LeadsGang() && gang_->SomebodyStands());
  };
  seen_holder_ = SlotId();
  return turn_->Acquire(hooks);
}

bool Runtime::DevicesAreBack() {
  CudaJob* const cuda = CudaJob::Current();
  if (cuda == nullptr) return true;
  absl::Status back = cuda->ComeBack();
  if (back.ok() && shares_devices_) back = cuda->EnterLane(lane_);
  if (!back.ok()) {
    if (const int64_t now = clock_.MonotonicNanos(); now >= say_away_ns_) {
      say_away_ns_ = now + kSayAwayNanos;
      Log(LogLevel::kWarning,
          absl::StrCat("event=not_back status=\"", back.ToString(),
                       "\" advice=\"this job waits for device memory that others hold outside of "
                       "iterations; tide ps says who, tide pause takes it\""));
    }
    return false;
  }
  // Moving takes its time of all: the turn is kept until the iterations outweigh it.
  const double share = std::clamp(DoubleOption("cuda.switch_share"), 0.001, 1.0);
  int64_t moving = cuda->MoveNanos();
  // The first time has the host's memory made as well, and says little.
  if (moving > 0 && std::exchange(first_move_, false)) moving = std::min(moving, kFirstMoveNanos);
  const int64_t now = clock_.MonotonicNanos();
  const auto hold = static_cast<int64_t>(static_cast<double>(moving) * (1 / share - 1));
  if (moving > 0) hold_until_ns_ = now + hold;
  SayLongTurns(now, moving, hold);
  return true;
}

void Runtime::SayLongTurns(int64_t now, int64_t moving_ns, int64_t hold_ns) {
  if (!in_lane_) return;  // a gang's turn is its leader's
  // relaxed: figures, each right by itself
  const int64_t usual = std::max(device_->lane(lane_).quantum_ns.load(std::memory_order_relaxed),
                                 slot().last_iteration_ns.load(std::memory_order_relaxed));
  const auto said = long_turns_.Note(now, moving_ns, hold_ns, usual);
  if (said) Tell(said->kind, said->text);
}

void Runtime::SleepUntilOrdered() {
  if (CudaJob* cuda = CudaJob::Current()) {
    if (!suspended_.load(std::memory_order_relaxed)) {
      cuda->AtBoundary(CudaJob::Idle::kYes);
    } else if (cuda->suspended_devices() == 0 && cuda->HoldsMemory()) {
      // An interrupt brought it back although the job is paused, and the program has returned.
      if (const auto freed = cuda->SuspendAll(); !freed.ok()) {
        Log(LogLevel::kWarning,
            absl::StrCat("event=not_suspended status=\"", freed.status().ToString(), "\""));
      } else if (deep_) {
        cuda->PauseDeeply();
      }
    }
  }
  // Sleeps on the wake word: read first, looked at the orders above after an earlier read, so
  // nothing is missed.
  const uint32_t word = slot().wake_word.load(std::memory_order_acquire);
  if (orders_.Empty()) shm::FutexWait(slot().wake_word, word, absl::Milliseconds(100));
}

absl::Status Runtime::Interrupted(absl::string_view text) {
  if (LeadsGang()) LeaveGang();  // whoever follows must not wait for what comes now
  CudaJob* const cuda = CudaJob::Current();
  if (cuda == nullptr) return absl::CancelledError(text);
  const bool suspended = suspended_.load(std::memory_order_relaxed);
  absl::Status back = suspended ? cuda->ResumeAll() : cuda->ComeBack();
  if (back.ok()) back = cuda->FinishReturn();  // the program may look at anything now
  if (!back.ok()) {
    Log(LogLevel::kWarning, absl::StrCat("event=device_memory_away status=\"", back.ToString(),
                                         "\" advice=\"touch no tensor of a device\""));
  }
  return absl::CancelledError(text);
}

absl::Status Runtime::AwaitDevices(const std::function<bool()>& interrupted) {
  const CudaJob* const cuda = CudaJob::Current();
  while (cuda != nullptr && suspended_.load(std::memory_order_relaxed) &&
         cuda->suspended_devices() > 0) {
    CarryOutOrders(Returns::kWhenResumed);
    if (!suspended_.load(std::memory_order_relaxed)) break;
    if (interrupted && interrupted()) return Interrupted("interrupted while paused");
    SleepUntilOrdered();
  }
  return absl::OkStatus();
}

void Runtime::LeaveStuckHolder() {
  const absl::Duration grace = absl::Milliseconds(IntOption("lane.grace_ms"));
  uint64_t word = 0;
  const absl::Duration silence = turn_->HolderSilence(&word);
  const int holder = shm::TurnWord::Holder(word);
  if (silence < grace || holder < 0) return;
  // A gang has iterations on several seats: nobody can say which of them are still written to.
  // relaxed: it changes between turns only
  if (device_->slot(SlotId(holder)).gang_size.load(std::memory_order_relaxed) > 1) return;
  const absl::Duration patience = lane::HolderPatience(device_->slot(SlotId(holder)), grace);
  if (silence < patience) return;
  if (scratch_ && scratch_->Stale()) {
    // It was itself left behind and has had no turn since: nothing of it lives on those pages.
    if (!arena_->DetachLane().ok()) return;
    mapped_generation_ = 0;
    scratch_.reset();
  }
  if (!scratch_ && !AttachScratch().ok()) return;  // or it has not had a turn yet
  if (!LeaveChunks(device_->slot(SlotId(holder)))) return;
  const auto left = scratch_->LeaveStuckHolder(*turn_, patience);
  if (left.ok() && *left) {
    // relaxed: for people
    const int32_t pid = device_->slot(SlotId(holder)).pid.load(std::memory_order_relaxed);
    Log(LogLevel::kWarning,
        absl::StrCat(
            "event=left_stuck_holder lane=", lane_.value(), " pid=", pid, " status=\"",
            absl::FormatDuration(absl::Trunc(silence, absl::Milliseconds(1))),
            " without a boundary\" advice=\"that job stands still inside an iteration or is "
            "slow; this one goes on without it, on fresh pages\""));
  }
}

bool Runtime::LeaveChunks(const shm::JobSlot& holder) {
  // seq_cst: it was set before the turn was taken
  if ((holder.flags.load() & shm::kOnChunks) == 0) return true;
  // It writes to device memory that others have mapped, and nobody can take that from it.
  CudaJob* const cuda = CudaJob::Current();
  return cuda != nullptr && cuda->LeaveChunks(lane_).ok();
}

absl::Status Runtime::AttachScratch() {
  TIDE_ASSIGN_OR_RETURN(scratch_,
                        lane::Scratch::Attach(*device_, slot_id_, lane_,
                                              Bytes(BytesOption("memory.reserve_address_space"))));
  return absl::OkStatus();
}

void Runtime::MapScratch() {
  if (scratch_ && !scratch_->Stale() && scratch_->generation() == mapped_generation_) return;
  absl::Status status;
  if (!scratch_ || scratch_->Stale()) status = AttachScratch();
  if (status.ok()) {
    lane_account_.Attach(lane_);
    status = arena_->AttachLane(scratch_->fd());
  }
  if (status.ok()) {
    mapped_generation_ = scratch_->generation();
    return;
  }
  // Without scratch pages the job still takes turns; its iterations use private memory.
  arena_->DetachLane().IgnoreError();
  Log(LogLevel::kWarning, absl::StrCat("event=no_scratch status=\"", status.ToString(), "\""));
}

absl::Status Runtime::Leave() {
  TIDE_RETURN_IF_ERROR(EndIteration(/*continuing=*/false));
  LeaveMeter();
  if (gang_ != nullptr) {
    LeaveGang();
    CarryOutOrders(Returns::kToProgram);  // what waited for the gang
  }
  if (CudaJob* cuda = CudaJob::Current()) {
    // What could not leave at the last boundary: until it has, the turn is kept.
    TIDE_RETURN_IF_ERROR(cuda->CloseLane());
    cuda->LeaveLane();
  }
  scratch_.reset();
  if (in_lane_) turn_->Leave();
  shares_devices_ = false;
  slot().flags.fetch_and(~shm::kOnChunks);
  in_lane_ = false;
  slot().phase.store(static_cast<uint32_t>(shm::Phase::kOutside), std::memory_order_relaxed);
  return absl::OkStatus();
}

}  // namespace tide::runtime

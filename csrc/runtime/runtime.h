// The job's side put together: who owns all parts, and the boundary between iterations.
#pragma once

#include <pthread.h>

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "arena/arena.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/ids.h"
#include "lane/gang.h"
#include "lane/scratch.h"
#include "lane/turn.h"
#include "pages/backend.h"
#include "pages/spill_file.h"
#include "runtime/accounts.h"
#include "runtime/budget_plan.h"
#include "runtime/core_api.h"
#include "runtime/daemon_link.h"
#include "runtime/long_turns.h"
#include "runtime/orders.h"
#include "runtime/pacer.h"
#include "runtime/pager.h"
#include "runtime/step_meter.h"
#include "sched/admission.h"
#include "sched/pace_law.h"
#include "shm/device_file.h"

namespace tide::runtime {

/// What the process wants to be; read from the options when it starts.
struct JobOptions {
  std::string name;
  int priority = 1;  // 0 opportunistic, 1 normal, 2 guaranteed
  Bytes limit;
  Bytes guaranteed;
  int lane = 0;             // -1: none
  bool lane_fixed = false;  // somebody asked for this lane; else the admission rule chooses
  int lanes_max = 1;
  int64_t iterations = 0;  // of the whole job; 0: not said
  bool queue = false;      // waits when it does not fit beside the others
  int weight_milli = 1000;
  sched::PaceOptions pace;
  static absl::StatusOr<JobOptions> FromOptions();
};

/// Everything `tide.memory.report()` shows.
struct RuntimeReport {
  arena::ArenaStats arena;
  BudgetState budget;
  SmallestLimit smallest;
  int64_t budget_revision = 0;
  int64_t iterations = 0;
  int64_t handovers = 0;  // turns this process was given after waiting
  Bytes spill_used;
  Bytes peak_bytes;
  bool suspended = false;
  double suspend_seconds = 0;  // of the last one
  double resume_seconds = 0;
  double predicted_suspend_seconds = 0;  // of the next one, devices included
  double predicted_resume_seconds = 0;
  double gate_seconds_last = 0;  // of the last boundary, waiting excluded
  double wait_seconds_total = 0;
  double pace = 1;                 // share of time that the job may run
  double paced_seconds_total = 0;  // stood still for its pace
  std::string device_path;
};

/// One per process; never destroyed, since storages point into it past shutdown. Boundary calls
/// come from one thread, everything else from any.
class Runtime {
 public:
  /// While it lives no iteration begins: another thread than the one that trains moves memory.
  class Moving {
   public:
    explicit Moving(Runtime& runtime) : runtime_(runtime) {
      runtime_.moving_.fetch_add(1, std::memory_order_acq_rel);
      const absl::MutexLock until_it_has_come(&runtime_.prefetch_mu_);
    }
    ~Moving() { runtime_.moving_.fetch_sub(1, std::memory_order_release); }
    Moving(const Moving&) = delete;
    Moving& operator=(const Moving&) = delete;

   private:
    Runtime& runtime_;
  };

  /// Errors: of the runtime directory, the device table, the address space.
  static absl::StatusOr<Runtime*> Start(const JobOptions& options);
  /// The one that runs, or null.
  static Runtime* Current();
  /// Wakes the job of another process, wherever it waits on the same device; nothing without one.
  static void WakeJobOf(pid_t pid);

  const TideCoreApi* api() const { return &api_; }

  /// Ends the iteration: survivors leave the lane, the turn passes, pending orders are carried out.
  /// Errors: no memory for survivors; then the turn is kept and the next call tries again.
  /// `continuing`: the next iteration begins at once, so the turn policy counts this job in.
  absl::Status EndIteration(bool continuing);
  /// Waits for the turn and begins the next iteration. `interrupted` is asked at least every 100 ms
  /// while waiting. Errors: Cancelled when it says so; nothing has begun then, and it may be called
  /// again.
  absl::Status BeginIteration(int phase, const std::function<bool()>& interrupted);
  /// This process is one of several that step together: from the next boundary on it has turns with
  /// its gang, and none by itself. A key of 0: its gang is not known yet. `meet`: all its processes
  /// begin together, and the first boundary waits for them. On the stepping thread.
  void JoinGang(const lane::GangPlace& place, bool meet);
  /// The optimizer steps before the iteration that begins next, the same in all processes of a
  /// gang.
  void SetStep(int64_t step) { step_ = step; }
  /// Whether the next iteration waits for the turn of its gang, and so do the gang's other
  /// processes, all before the same step. On the stepping thread.
  bool GangWaits() const { return gang_ != nullptr && gang_->closed(); }
  /// The job will run `count` more iterations; 0: unknown. Turn policies that look ahead use it.
  void ExpectIterations(int64_t count);
  /// The job will run no more iterations for now (idle notebook, end of training).
  absl::Status Leave();

  /// Orders from the API (waits until applied at a boundary is the caller's business) or from the
  /// daemon.
  Orders& orders() { return orders_; }
  /// Whether the caller returns to the program before a suspended job has been resumed. It may then
  /// touch device memory, whose addresses would be empty: a suspension of a job that has some is
  /// left for a caller that waits.
  /// kToNextIteration: it waits, too. With it and kToProgram the suspension of a process of a gang
  /// is left until all of the gang have stopped.
  enum class Returns { kToProgram, kWhenResumed, kToNextIteration };
  /// Carries pending orders out now: only at a quiet point on the stepping thread.
  void CarryOutOrders(Returns returns);
  /// Waits until the device memory of a suspended job is back; returns at once when none is away.
  /// Errors: Cancelled, as BeginIteration; the memory is back then too, as far as it fits.
  absl::Status AwaitDevices(const std::function<bool()>& interrupted);

  /// TideOperators that are to be reported until the next boundary, as bits.
  int OperatorsWanted();

  RuntimeReport Report();
  /// Seconds that the next suspension and the return from it take, on the host and all devices.
  std::pair<double, double> PredictedSeconds();
  /// Predicted service until the job ends; -1: unknown.
  int64_t RemainingNanos() { return slot().remaining_ns.load(std::memory_order_relaxed); }
  std::string MemoryTable();
  arena::Arena& arena() { return *arena_; }
  shm::DeviceFile& device() { return *device_; }
  SlotId slot_id() const { return slot_id_; }
  /// As the daemon made it unique; the wished one before it has answered.
  std::string name();
  /// One measurement of what is outside of our pages; the sampler thread calls it every 250 ms.
  void Sample();
  /// The part of it that is cheap: how much of the file tier is in memory.
  Bytes SampleFileTier();
  /// Asks the sampler thread for a measurement now.
  void SampleSoon();
  /// Makes the job known to the daemon, now or whenever one answers; once.
  void Register(const std::string& script);
  /// This process is one of an elastic job: what the daemon orders is for the job as a whole.
  void TakeOrdersThrough(std::shared_ptr<JobOrders> job);
  /// Leaves lane and ledger; called at exit. The daemon is told the code, or without one the C
  /// library's when the process calls exit: an interpreter does not know it before.
  void Shutdown(std::optional<int> exit_code);

 private:
  Runtime(const JobOptions& options, std::unique_ptr<shm::DeviceFile> device, SlotId slot_id);
  absl::Status Init();
  shm::JobSlot& slot() { return device_->slot(slot_id_); }

  // boundary.cc
  absl::Status TakeTurn(int phase, const std::function<bool()>& interrupted);
  /// Waits for the turn. Errors: Cancelled by `interrupted` (then `stop`), or for what was asked of
  /// the job meanwhile.
  absl::Status AcquireTurn(const std::function<bool()>& interrupted, bool& stop);
  /// What ends a wait of a suspended job whose program goes on all the same: Cancelled.
  absl::Status Interrupted(absl::string_view text);
  /// Before an iteration: brings back what has stepped aside. False: not all of it fits now.
  bool DevicesAreBack();
  /// Of a turn for which memory has moved for `moving_ns`, and that is kept for `hold_ns` then.
  void SayLongTurns(int64_t now, int64_t moving_ns, int64_t hold_ns);
  void SleepUntilOrdered();
  void MapScratch();
  /// The turn is kept, since what is alive on a device could not leave the lane; now and then.
  void SayOpen(const absl::Status& status);
  absl::Status AttachScratch();
  void LeaveStuckHolder();
  int LaneMembers();
  /// Whether the next iteration runs on device scratch that the lane shares.
  bool SharesDevices();
  void ChooseScratch();
  /// Whether a stuck holder may be passed over as far as device memory goes: the others have other
  /// scratch then.
  bool LeaveChunks(const shm::JobSlot& holder);
  /// Whether iteration `index` is one of those before lifetimes are known.
  static bool Learning(int64_t index);

  // prefetch.cc
  /// While it waits for its turn: pages of devices that may come before it, one after the other,
  /// until something else is to be done.
  void Prefetch();
  /// Whether this job is next and the one that has the turn has ended an iteration in it since this
  /// job was last asked for memory: what it needs it has then.
  bool HolderHasSettled();

  // gang_boundary.cc
  /// Enters the gang that JoinGang has named, leaving another one.
  void EnterGang();
  void LeaveGang();
  bool LeadsGang() const { return gang_ != nullptr && gang_->leader(); }
  /// Whether the gang's next boundary is to be one at which the turn may pass.
  bool WantsClose();
  lane::WaitHooks GangHooks(const std::function<bool()>& interrupted);
  /// The leader's boundary: gives the turn away when its gang has stopped. The first time it makes
  /// this process a member of the lane.
  absl::Status LeadGang(const std::function<bool()>& interrupted);
  /// A follower's boundary: waits while its gang has no turn, and takes its seat.
  absl::Status FollowGang(const std::function<bool()>& interrupted);
  void UseSeat();
  /// Either of them. False: what was asked of the job meanwhile comes first.
  absl::StatusOr<bool> MeetGang(const std::function<bool()>& interrupted);
  /// How long a boundary waits for the others.
  absl::Duration PatienceWithGang();
  /// A turn that was kept goes to others while this job stands still.
  void GiveKeptTurn();
  /// Whether the next order is a suspension that is better carried out once its gang has stopped.
  bool SuspendWaitsForGang();
  /// Tells the gang whether this process is paused or is to be.
  void SayStands();
  /// Of a leader without the turn: true while another process of its gang stands.
  bool GangStands();

  /// Whether a pause is carried out, or has been, on whatever thread.
  bool MustStand() const {
    // acquire: pairs with the end of a move elsewhere
    return moving_.load(std::memory_order_acquire) > 0 ||
           suspended_.load(std::memory_order_relaxed);
  }

  // pace.cc
  /// The next iteration is wanted; tells the meter of a guaranteed job.
  void AskMeter(int phase);
  void LeaveMeter();
  /// Whether this job computes on devices.
  static bool OnDevices();
  /// Before the time of an iteration is taken, where somebody's pace depends on it.
  void AwaitDeviceWork();
  /// The devices have done what this job gave them: before others may run. Costs nothing without
  /// any.
  void FinishDeviceWork();
  void BeginPace(int64_t now);
  void EndPace(int64_t now);
  /// A rank waits for others in collectives, which stand still for their pace: that is no running.
  /// Charged with it, each would stand still for many times what the other did, and so on.
  void ExcuseWaits(int64_t now);
  /// Between iterations: whether the job has run more than its share.
  bool WaitsForPace();
  void SleepForPace();
  /// Each operator while they are reported; it waits here for its pace, if it may.
  void PaceOperator(bool may_wait);
  void WaitInside();
  void SayPace(int64_t now);

  // admission.cc
  /// Whether the job has to wait until others end; enters and leaves the queue.
  bool WaitsForAdmission();
  bool Measured();
  sched::AdmissionDecision DecideAdmission();
  void EnterQueue(const std::string& reason);
  void LeaveQueue();
  /// Takes an empty lane when this one is shared.
  void SpreadOverLanes();
  absl::Status JoinLane(LaneId lane);

  // budget.cc
  BudgetState MeasureBudget();
  void ApplyBudget();
  /// One round of it; true when pages were demoted, which may ask for another.
  bool MoveByPlan(const BudgetState& state);
  GrantResult ApplyGrant(const GrantRequest& grant);
  absl::Status EnsureSpill();
  bool NeedMemory(Bytes bytes, bool last_resort);
  /// Asks others for memory and does not wait; false when nobody has any. `busy_too`: also those in
  /// an iteration.
  bool AskOthers(Bytes bytes, bool busy_too);
  void RelieveDevice();
  Bytes RecentOutside(Bytes now);
  void ChargeStreamed();
  bool MayMove(Returns returns);
  /// What became of a deep pause, in words; empty where none was asked for.
  std::string SayHowDeep(bool asked) const;
  void CarryOutMove(const Orders::PendingMove& move);
  /// Errors: FailedPrecondition without memory there, else as CudaJob::MoveLimit.
  absl::StatusOr<Bytes> LimitDevice(int device, Bytes limit);
  /// `deep`: as with option cuda.pause=deep.
  absl::Status Suspend(bool deep = false);
  /// The host's part of it. On an error all of it is back.
  absl::Status SuspendHost();
  absl::Status Resume();
  /// Promotes what fits; what does not streams. Returns the pages moved.
  PageCount BringBack();
  void StartStreaming();
  void UpdateRecording();
  /// Writes the predicted remaining service, from iterations of `last_iteration_ns`; 0: not known.
  void PredictRemaining(int64_t last_iteration_ns);
  /// In nanoseconds, over the measured members of the lane; 0 where there is none.
  double MeanIterationOfOthers();

  static void FillApi(TideCoreApi& api);
  void InstallForkHandlers();
  void AbandonLinkAfterFork();
  void SamplerLoop();

  // constant after construction
  const JobOptions options_;
  const std::unique_ptr<shm::DeviceFile> device_;
  const SlotId slot_id_;
  Clock& clock_;
  std::unique_ptr<pages::Backend> backend_;
  JobAccount account_;
  LaneAccount lane_account_;
  arena::Arena* arena_ = nullptr;  // leaked on purpose
  std::unique_ptr<Pager> pager_;
  TideCoreApi api_;

  // used by the stepping thread alone
  std::unique_ptr<Pacer> pacer_;
  std::unique_ptr<StepMeter> meter_;
  bool metered_ = false;         // the meter knows of the iteration that is open or wanted
  bool pace_operators_ = false;  // operators of this iteration are reported for pace
  bool let_go_ = false;          // no waiting in this iteration any more
  int64_t charged_ns_ = 0;       // up to when the pace was charged, and the processor time by then
  int64_t charged_processor_ns_ = 0;
  bool said_slowed_ = false;
  int64_t said_pace_ns_ = 0;
  std::unique_ptr<lane::Turn> turn_;
  std::optional<lane::Scratch> scratch_;
  uint64_t mapped_generation_ = 0;  // of the scratch whose pages are mapped
  bool in_lane_ = false;            // a member of the lane
  bool shares_devices_ = false;  // the iteration of the next turn is on the lane's device scratch
  LaneId lane_;                  // the one it joined last
  bool admitted_ = false;        // its measured sizes were looked at and it may run
  bool queued_ = false;
  bool in_gang_ = false;  // has turns with others or none
  lane::GangPlace gang_place_;
  bool gang_meets_ = false;
  std::unique_ptr<lane::Gang> gang_;  // null until the place has a key
  bool on_seat_ = false;              // a follower whose iteration may use its seat
  bool survivors_stay_ = false;       // survivors could not leave at the last boundary
  int64_t step_ = 0;
  bool deep_ = false;             // the last suspension was to be
  int64_t suspend_waits_ns_ = 0;  // since when a suspension has waited for the gang; 0: none does
  bool keep_turn_ = false;        // survivors could not leave, or hold_until_ns_ is not reached
  void SayBye(int status);
  bool says_bye_at_exit_ = false;
  bool turn_follows_ = false;  // the thread that trains is in TakeTurn
  bool first_move_ = true;
  int64_t say_away_ns_ = 0;    // when trouble with device memory may be said again
  int64_t hold_until_ns_ = 0;  // how long a turn is kept for which device memory has moved
  LongTurns long_turns_;
  int64_t looked_ahead_ns_ = 0;
  SlotId seen_holder_;           // by HolderHasSettled; none: to be seen anew
  int64_t seen_iterations_ = 0;  // of it, then
  bool lane_was_used_ = false;   // the last iteration ran on lane pages
  bool trimmed_ = false;         // private scratch was given back after the lane took over
  bool trim_scratch_ = false;
  pthread_t pace_thread_{};  // that runs the iteration
  // Read by other threads of the job when an operator is reported in them, which then do nothing.
  std::atomic<bool> iteration_open_{false};
  int64_t iteration_begin_ns_ = 0;
  std::deque<Bytes> scratch_history_;  // private scratch of the last iterations
  int64_t asked_at_ns_ = 0;            // when others last asked this job for memory
  int record_iterations_ = 0;          // left to record
  double mean_iteration_ns_ = 0;       // of the measured ones, the last ones most
  double demote_bytes_per_s_ = 1e9;    // measured at every move; the first guess is a disk's
  double promote_bytes_per_s_ = 1e9;

  Orders orders_;
  absl::Mutex link_mu_;
  std::unique_ptr<DaemonLink> link_ ABSL_GUARDED_BY(link_mu_);
  std::shared_ptr<JobOrders> job_orders_ ABSL_GUARDED_BY(link_mu_);
  std::atomic<bool> suspended_{false};
  std::atomic<int64_t> iterations_{0};
  std::atomic<int64_t> iterations_expected_{0};  // in all; 0: unknown
  std::atomic<int64_t> waited_ns_{0};
  std::atomic<int> moving_{0};                // threads that move memory outside of TakeTurn
  absl::Mutex prefetch_mu_;                   // held while a page comes back before the turn
  std::atomic<int64_t> paced_ns_{0};          // stood still for its pace
  std::atomic<int64_t> asked_in_vain_ns_{0};  // when others last had nothing to give

  void Tell(absl::string_view kind, absl::string_view text);

  absl::Mutex outside_mu_;
  std::deque<std::pair<int64_t, Bytes>> outside_history_ ABSL_GUARDED_BY(outside_mu_);

  std::atomic<uint32_t> sample_word_{0};  // a futex: grows when a measurement is due
  uint32_t sampled_word_ = 0;             // of the sampler thread alone

  absl::Mutex spill_mu_;
  std::unique_ptr<pages::SpillFile> spill_ ABSL_GUARDED_BY(spill_mu_);
  absl::Mutex report_mu_;
  RuntimeReport report_ ABSL_GUARDED_BY(report_mu_);
};

}  // namespace tide::runtime

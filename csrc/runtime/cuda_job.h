// The job's device memory put together: driver, pages, and one ledger a device that all jobs share.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/status.h"
#include "lane/chunk_socket.h"
#include "pages/cuda_driver.h"
#include "pages/device_pages.h"
#include "pages/device_plan.h"
#include "pages/device_segments.h"
#include "pages/device_shares.h"
#include "pages/lane_plan.h"
#include "pages/spill_file.h"
#include "runtime/accounts.h"
#include "runtime/checkpoint_helper.h"
#include "runtime/core_api.h"
#include "runtime/cuda_lane.h"
#include "runtime/late_return.h"
#include "runtime/move_costs.h"
#include "runtime/touch_order.h"
#include "shm/device_file.h"

namespace tide::runtime {

/// What `torchtide.cuda.report()` shows of one device.
struct CudaReport {
  std::string name;
  std::string uuid;
  std::string table_path;
  Bytes total;     // of the device, as the driver says
  Bytes free;      // of the device
  Bytes outside;   // used and in no job's ledger: contexts, libraries, processes without torchtide
  Bytes limit;     // of this job; 0: none
  Bytes capacity;  // for all jobs: total less outside, less the headroom of a shared device
  Bytes used;      // by all jobs
  Bytes asked;     // what others have asked of this job
  Bytes lanes;     // of that, scratch that jobs of lanes share
  Bytes chunks;    // of that, what this job has
  int64_t settle_ns = 0;  // the last boundary of an iteration on it took
  // Of the next suspension, and of the return from it.
  double predicted_suspend_s = 0;
  double predicted_resume_s = 0;
  Bytes prefetched;         // since the start, and there when the turn came
  int64_t prefetch_ns = 0;  // that their copies took
  pages::DeviceCounts counts;
};

struct ShrinkResult {
  Bytes moved;
  Bytes short_by;
  std::string reason;
};

struct BoundaryResult {
  Bytes asked;  // by others, since the last boundary
  Bytes given;
};

/// What the daemon is told of one device; read from memory alone, no driver is asked.
struct CudaFigures {
  int index = 0;
  std::string name;
  Bytes limit;  // 0: none
  Bytes device;
  Bytes host_mapped;
  Bytes away;                      // pinned copies and the spill file: while suspended
  double predicted_suspend_s = 0;  // as in CudaReport
  double predicted_resume_s = 0;
};

/// What only the framework can do. Called on the thread of the boundary, with no lock of ours held;
/// a function that is not set does nothing.
struct CudaFramework {
  /// Whether a graph is being captured: a call that waits for the device would spoil it.
  std::function<bool()> capturing;
  /// Gives cached memory of an idle device back. Errors: of the framework; cached memory stays.
  std::function<absl::Status(int device)> flush;
  /// What flush would give back, about. None: nothing is known of it.
  std::function<Bytes(int device)> cached;
  /// What leaves first when memory shrinks.
  std::function<std::vector<pages::ColdRange>()> cold;
  /// Has all threads allocate from a pool of the lane, until close_lane. Errors: of the framework.
  std::function<absl::Status(int device)> open_lane;
  /// Ends that, waits for the device, and says what the pool holds. May be called again. Errors: of
  /// the framework; nothing is allocated from the pool any more.
  std::function<absl::StatusOr<pages::LanePool>(int device)> close_lane;
  /// What an iteration does not touch before it calls FinishReturn: pages with nothing else on them
  /// may come back while it runs. None: a resume is whole.
  std::function<std::vector<pages::ColdRange>()> late;
  /// What an iteration may use before that, but through operators alone where it was once seen to:
  /// the rest of these returns before it begins. None: nothing is watched.
  std::function<std::vector<pages::ColdRange>()> layers;
  /// Has operators say what they use (BeforeUse) and backward that it begins, or no more.
  std::function<void(bool on)> watch;
  /// Whose contents nobody wants while memory leaves: pages with nothing else on them are not
  /// copied.
  std::function<std::vector<pages::ColdRange>()> unwanted;
  /// Has the memory of communicators leave before a suspension, and return after it; all of them or
  /// none. Errors: of the communication library; a return may be repeated.
  std::function<absl::Status(bool away)> communicators;
  /// Why the process must not be checkpointed now; empty: nothing that the framework knows of.
  std::function<std::string()> why_not_deep;
  /// The stream that iterations run on now; not set: the default stream, which waits for others.
  std::function<pages::cuda::Stream(int device)> stream;
};

/// One per process; never destroyed, since PyTorch's table points into it. Moves (Shrink, Suspend,
/// Resume) need an idle device and come from one thread, everything else from any. A forked child
/// has none: no driver works there, and the ledgers' slots are its parent's.
class CudaJob {
 public:
  /// Opens the driver and claims a slot in each device's ledger. Idempotent. Errors: of the driver
  /// and of the tables, FailedPrecondition in a forked child; then nothing is hooked.
  static absl::StatusOr<CudaJob*> Start(const std::string& name);
  /// The one that runs, or null.
  static CudaJob* Current();
  /// Before the first boundary.
  void set_framework(CudaFramework framework) { framework_ = std::move(framework); }
  /// Of what moves take. Before the first; it is borrowed and outlives the job. For tests.
  void set_clock(Clock& clock) { clock_ = &clock; }

  /// For the adapter's table.
  const std::vector<TideCudaCall>& adapter_calls() const { return adapter_calls_; }
  int device_count() const { return driver_->device_count(); }
  pages::DevicePages& pages() { return *pages_; }
  /// For an allocator that is reached through cudaMalloc or a pool.
  pages::DeviceSegments& segments() { return *segments_; }
  /// Streams on shares of the devices' multiprocessors.
  pages::DeviceShares& shares() { return *shares_; }
  /// Whether the driver itself can move a process's device memory away (cuCheckpointProcess*).
  bool OffersCheckpoint() const;

  /// The next request of the allocator sees it; 0: none. Returns by how much the job is over it.
  Bytes SetLimit(int device, Bytes limit);
  /// Moves pages until `need` bytes of device memory are given back: spares, then cold pages to
  /// host memory that the device can map, and only with `any` others too.
  ShrinkResult Shrink(int device, Bytes need, const std::vector<pages::ColdRange>& cold, bool any);
  /// Brings pages back as far as limit and device allow; takes nothing from others, for which they
  /// could ask again at once. Returns the bytes that still are away.
  absl::StatusOr<Bytes> Restore(int device);
  /// All pages that may move leave the device: to pinned memory and, where the host has none left,
  /// to the spill file; or all to the file. On an error those that had left return; where even that
  /// fails, the device stays suspended. Returns the bytes given back.
  absl::StatusOr<Bytes> Suspend(int device, pages::DeviceTier to);
  /// All of them return; others are asked once for what is missing. On an error those that had
  /// returned leave again, as far as they can, and the call may be repeated.
  absl::Status Resume(int device) {
    TIDE_RETURN_IF_ERROR(Thaw());
    TIDE_RETURN_IF_ERROR(Return(device));
    devices_[device]->suspended = false;
    return absl::OkStatus();
  }

  /// Waits for pages that come back while an iteration runs. Any thread; costs nothing when there
  /// are none. Errors: of the driver and the spill file; those pages stay away, and the call may be
  /// repeated.
  absl::Status FinishReturn() { return late_->Finish(); }
  /// An operator is about to use the range, of one storage: waits for its pages. Any thread. Where
  /// they do not return the operator fails as the driver says.
  void BeforeUse(const pages::ColdRange& range);
  /// What is used first from here on is not watched: waits for the layers that are not back. Any
  /// thread; does nothing the second time in an iteration.
  void EndForward();
  /// cuda_tags.cc: what has lost its contents on a device since the last call; nothing while any of
  /// it is away.
  std::vector<pages::ColdRange> TakeLost(int device);
  /// How often an operator, or a backward, had to wait for pages on their way.
  int64_t late_waits() const { return late_->waits(); }

  // cuda_boundary.cc: between two iterations, on the thread that trains.
  /// Waits for the device, lets the framework flush its cache, then shrinks by what is missing.
  /// Errors: of the device and the framework; Unavailable while a graph is being captured.
  absl::StatusOr<ShrinkResult> MakeRoom(int device, Bytes need);
  /// Moves the limit, 0: none, and pages until the job is within it. Returns the bytes that left
  /// the device. Errors: FailedPrecondition with what is missing and why, Unavailable during a
  /// capture, of the device; the old limit stays. A greater limit holds even where pages cannot
  /// return now: a boundary brings them back.
  absl::StatusOr<Bytes> MoveLimit(int device, Bytes limit);
  /// Gives others what they asked for, or else takes back what fits. Does nothing on a suspended
  /// device and during a capture; the next boundary does it then.
  /// `idle`: no iteration runs until ComeBack, so any page may go.
  enum class Idle { kNo, kYes };
  BoundaryResult AtBoundary(int device, Idle idle = Idle::kNo);
  BoundaryResult AtBoundary(Idle idle = Idle::kNo);
  /// Has an allocation that is refused find what the framework calls cold now.
  void LookUpCold();
  /// Has what AtBoundary gave away returned to its addresses: before an iteration runs. Others are
  /// asked for what is missing. On an error what had returned leaves again, and the call may be
  /// repeated. Errors: as Resume.
  absl::Status ComeBack();
  /// cuda_prefetch.cc: pages of a job that waits for its turn come back before it, at most the
  /// share cuda.prefetch of what is away, into room that nobody wants. A look says which, if `may`:
  /// once nobody's memory has grown since the look before and nobody asks for any. Whoever was
  /// asked after pages had come brings no more until ComeBack.
  void LookAhead(bool may);
  /// One of them. False: no more, until the next look.
  bool Prefetch();
  /// Ends a suspension without moving a page: ComeBack does that before an iteration runs.
  void LeaveSuspensionAside();
  /// Whether what is suspended fits its devices now, with nothing taken from others.
  bool SuspensionFits() const;
  /// Whether ComeBack has anything to do.
  bool IsAside() const;
  /// How long the last leaving and returning took, in ns; 0 when nothing has moved since the last
  /// call.
  int64_t MoveNanos();
  /// All devices, or none: when one fails, those that had been suspended return. Returns the bytes
  /// given back. Errors: as MakeRoom and Suspend.
  absl::StatusOr<Bytes> SuspendAll();
  /// All devices, or none. Errors: as Resume; the call may be repeated.
  absl::Status ResumeAll();

  // cuda_deep.cc: the driver's checkpoint takes the contexts too.
  /// What starts the helper for it; see CheckpointHelper.
  void SetCheckpointCommand(std::vector<std::string> command) {
    checkpoint_.SetCommand(std::move(command));
  }
  /// After SuspendAll, on the same thread. Returns why the contexts stay where they are, else an
  /// empty text. While they are away no CUDA call of this process returns; ours that only look are
  /// left out.
  std::string PauseDeeply();
  /// Ends that; before anything that calls the driver. Others are asked for memory that is missing.
  /// Errors: ResourceExhausted without room within need.wait_ms, Internal with what the driver
  /// says; all stays as it was, and the call may be repeated. Any thread.
  absl::Status Thaw();
  bool frozen() const { return checkpoint_.frozen(); }
  /// For calls of the framework's threads: waits as long as the contexts are away.
  void AwaitThaw() { checkpoint_.AwaitThaw(); }
  /// A boundary that waits needs the interpreter's lock, or has it. A thread of the program that
  /// holds it in a call that waits for the thaw, or a signal's handler that makes such a call,
  /// would stop this for ever: such a pause stops being deep after a second.
  void WantInterpreter(bool wanted);
  /// What became of the last deep pause, in words; empty where there was none.
  std::string DeepWords();

  // cuda_scratch.cc: iterations on scratch that the jobs of a lane share, with option cuda.lanes.
  /// With the turn, before an iteration: what is the lane's has memory. Others are asked for what
  /// is missing. A device on which it cannot be shared is left as it is. Errors: as ComeBack.
  absl::Status EnterLane(LaneId lane);
  /// Iterations allocate from the lane's pool from here on.
  /// Returns whether any device's do.
  bool OpenLane();
  /// Before the turn passes: what is alive becomes private, the rest goes to the lane. Errors: what
  /// is alive has no memory; then the turn must be kept, and the call may be repeated.
  absl::Status CloseLane();
  /// Gives all of the lane's memory back. Not while it is open.
  void LeaveLane();
  bool InLane() const;
  /// Whether the framework can route its allocations and say what is alive.
  bool CanShare() const { return framework_.open_lane && !lanes_failed_; }
  /// Before a member that is stuck in an iteration is passed over: the others get new chunks, and
  /// it keeps those that it may still write to. Errors: as DeviceFile::RenewChunks, for any device;
  /// then it must not be passed over.
  absl::Status LeaveChunks(LaneId lane);

  /// Waits until the devices have done what this job gave them: before a turn passes.
  void FinishWork();
  /// cuda_pace.cc: marks where this iteration ends in the devices' work, and waits for the mark of
  /// the one before. So the device is never idle for it, and the time from call to call is what an
  /// iteration takes on the device. Does nothing during a capture.
  void AwaitIterationBefore();
  /// Gives the slots in the ledgers back; the process is about to end. Idempotent.
  void Retire();
  bool Capturing() const { return framework_.capturing && framework_.capturing(); }
  /// Whether device memory of this job exists, so that a suspension empties addresses.
  bool HoldsMemory() const;
  int suspended_devices() const;
  bool suspended(int device) const { return devices_[device]->suspended; }

  CudaReport Report(int device);
  /// Of the devices that this job has used.
  std::vector<CudaFigures> Figures() const;
  /// What suspending this device and bringing it back would take, in seconds; 0 where nothing would
  /// move. Of what is on the device less what a flush gives back, by the measured costs of its
  /// moves. Waiting is no part: for the iteration that runs, and for memory that others give.
  struct Predicted {
    double suspend_s = 0;
    double resume_s = 0;
  };
  Predicted Predict(int device) const;
  /// Has the next prediction know what is cached now. Calls the framework; not during a capture.
  void AskForCached(int device);
  /// All devices, one after the other.
  Predicted Predict() const;
  /// Who holds what on the device, as text.
  std::string MemoryTable(int device);
  /// So much of others' requests has been answered, as far as this job can.
  void AnswerOthers(int device, Bytes answered);
  /// Waits for the device; a boundary alone does not prove that it is idle.
  absl::Status Synchronize(int device);

 private:
  // Until it was measured: on an H200 unmapping and releasing 20 MiB takes 55 us, 355 GiB/s
  // (docs/guides/gpu.md); the phantom gives 3 back. So 100.
  static constexpr double kFlushSecondsPerByte = 1.0 / (int64_t{100} << 30);
  /// Of one wait for a turn.
  struct Ahead {
    bool looked = false;
    Bytes used;         // by all jobs, at the last look and by what came since
    bool over = false;  // no more in this wait
    Bytes brought;
    int64_t copy_ns = 0;                  // that it took
    int64_t demoted = 0;                  // of all moves, before the first one came
    std::vector<pages::DevicePage> plan;  // the next one last
  };
  struct Device {
    std::unique_ptr<shm::DeviceFile> file;
    SlotId slot;
    std::unique_ptr<JobAccount> account;
    std::string name;
    std::string uuid;
    std::atomic<int64_t> asked_in_vain_ns{0};   // relaxed: a lone number
    std::atomic<int64_t> last_ask_ns{0};        // relaxed: a guess
    std::atomic<int64_t> last_ask_bytes{0};     // relaxed: a guess
    std::atomic<bool> suspended{false};         // pages are away and nothing may run
    int64_t measured_ns = 0;                    // when AtBoundary last measured what is outside
    std::unique_ptr<CudaLane> lane;             // made at the first iteration in one
    std::atomic<bool> shares{false};            // `lane` is there for the server's thread
    std::atomic<int64_t> settle_ns{0};          // relaxed: a figure
    std::atomic<bool> refused{false};           // relaxed: since the last boundary
    int64_t cold_creates = -1;                  // when cold ranges were looked up
    std::vector<pages::ColdRange> lost;         // of the thread that trains
    std::vector<pages::ColdRange> late_layers;  // of the last return
    Ahead ahead;                                // of the thread that trains
    std::atomic<int64_t> prefetched_bytes{0};   // relaxed: a figure
    std::atomic<int64_t> prefetch_ns{0};        // relaxed: a figure
    pages::cuda::Event marks[2] = {nullptr, nullptr};  // ends of the last iterations, in turn
    int next_mark = 0;
    // What moves took; `flushing` is of what the framework gave back before.
    MoveCosts leaving, returning, flushing{kFlushSecondsPerByte};
    std::atomic<int64_t> cached_bytes{0};  // relaxed: what a flush would give back, as asked last
    std::atomic<bool> leaves_to_file{false};  // relaxed: where the last suspension went
    std::atomic<int64_t> dropped_bytes{0};    // relaxed: of the last leaving
    std::atomic<double> early_share{1};       // relaxed: of the last return, before an iteration
  };
  explicit CudaJob(std::unique_ptr<pages::cuda::Driver> driver) : driver_(std::move(driver)) {}
  absl::Status OpenDevice(const std::string& name, int index);
  // cuda_predict.cc
  /// Takes what it needs of the pinned memory that no page uses.
  Predicted Predict(int device, Bytes* pinned_free) const;
  Bytes PinnedFree() const;
  double SecondsSince(int64_t begin) const;
  /// Of what has moved since, of a device's pages: counts of before, and of now.
  void NoteLeft(int device, const pages::DeviceCounts& before, Bytes held, int64_t begin);
  void NoteReturned(int device, const pages::DeviceCounts& before, int64_t begin);
  static MoveWork WorkOf(const pages::DeviceCounts& before, const pages::DeviceCounts& now);
  std::string WhyNotDeep() const;
  void WatchWhileFrozen();
  // cuda_report.cc
  void MeasureOutside(int device, CudaReport* report);
  /// What several jobs leave free for what asks nobody.
  static Bytes Headroom(const Device& device, Bytes total);
  bool NeedMemory(int device, Bytes bytes);
  static Bytes HowMuchToAsk(Device& device, Bytes need);
  enum class Whom { kAnybody, kPromisedNothing };
  /// False when nobody has any.
  bool AskOthers(Device& device, Bytes bytes, Whom whom);
  /// What others have been asked for, by whomever, and not given yet.
  static Bytes Promised(const Device& device);
  /// Asks others for what is missing to `bytes` and waits until they gave it, within need.wait_ms.
  /// False when nobody has any; and, with `idle`, when others ask this job, which can give then:
  /// two that wait for each other would both wait in vain.
  bool AskAndWait(int index, Bytes bytes, Idle idle = Idle::kNo);
  /// The same for all that is away.
  bool MakeSureOfRoom(int device, Idle idle);
  /// From the one at `late` on they get their room only, and come back later.
  absl::Status PromoteAll(int device, const std::vector<pages::cuda::Handle>& tokens,
                          Idle idle = Idle::kNo, size_t late = SIZE_MAX);
  /// All that is away returns, or all stays away; with `idle` nothing moves in vain.
  absl::Status Return(int device, Idle idle = Idle::kNo);
  std::vector<pages::DevicePage> Away(int device, bool dropped = false) const;
  // cuda_prefetch.cc
  void LookAhead(int device, bool may);
  bool Prefetch(int device);
  /// What of a device is neither used nor wanted by anybody.
  static Bytes FreeRoom(const Device& device);
  void EndPrefetch(int device);
  /// Before pages leave, and after they are back. Errors: of the framework.
  absl::Status LeaveCommunicators();
  absl::Status ReturnCommunicators();
  void StopWatching();
  // cuda_aside.cc
  Bytes StepAside(int device, Bytes need);
  Bytes Aside(int device) const;
  /// Where pages will wait, and has the memory for them made meanwhile.
  pages::DeviceTier PrepareHost(Bytes bytes);
  /// Gives back what a suspension left of the host's memory, beyond what may be kept.
  void KeepPinned();
  /// To pinned memory, or to the file where there is none; `to` kFile means the file at once, and
  /// kDropped nowhere.
  absl::Status DemoteForSuspension(pages::cuda::Handle token, pages::DeviceTier to);
  /// A page that leaves with the device, or for another job.
  struct Leaving {
    pages::DevicePage page;
    bool unwanted = false;
  };
  /// Those that may; nobody wants the last ones.
  std::vector<Leaving> MayLeave(int device) const;
  absl::Status Leave(const Leaving& leaving, pages::DeviceTier to);
  absl::Status PrepareToMove(int device);
  absl::Status Flush(int device);
  /// Looks again where something may be cold that was not, for the iteration that comes.
  void RememberCold(int device);
  /// Inside an iteration, for an allocation that is refused: cold pages to host memory that the
  /// device maps, where an operation may still use them. False the first time in an iteration,
  /// since PyTorch then gives back its cache and asks again. Waits for the device.
  bool MoveColdNow(int device, Bytes need);
  // cuda_scratch.cc
  CudaLane& LaneOf(int device);
  absl::Status StartChunkServer();
  absl::Status MapLane(int device);
  absl::Status SettleLane(int device, const pages::LanePool& pool);
  /// What only this job has of the lane is given to others. Returns the bytes.
  Bytes GiveLane(int device);
  bool SharesLane(int device) const {
    return devices_[device]->lane != nullptr && devices_[device]->lane->joined();
  }
  bool LaneIsOpen(int device) const;
  /// What others could have of a slot: its own pages, and chunks that only it has.
  static Bytes Resident(const Device& device, int slot);

  Bytes Asked(int device) const;
  void MeasureNowAndThen(int device);
  void FillAdapterCalls();
  absl::Status EnsureSpill();

  // constant after construction
  const std::unique_ptr<pages::cuda::Driver> driver_;
  std::vector<std::unique_ptr<Device>> devices_;
  std::unique_ptr<pages::DevicePages> pages_;
  std::unique_ptr<pages::DeviceSegments> segments_;
  std::unique_ptr<pages::DeviceShares> shares_;
  std::unique_ptr<LateReturn> late_;
  std::unique_ptr<pages::SpillFile> spill_;  // opened at the first suspension that wants it
  std::vector<TideCudaCall> adapter_calls_;
  CudaFramework framework_;
  Clock* clock_ = &RealClock();  // of what moves take
  int64_t waited_ns_ = 0;        // for others to give memory; of the thread that trains
  std::unique_ptr<lane::ChunkServer> chunk_server_;  // from the first iteration in a lane on
  bool lanes_failed_ = false;  // the framework could not say what is alive: no more of it
  absl::Mutex cold_mu_;
  std::vector<pages::ColdRange> cold_ ABSL_GUARDED_BY(cold_mu_);  // when it was looked up last
  int64_t leave_ns_ = 0, return_ns_ = 0;                          // of the thread that trains
  bool communicators_away_ = false;                               // of the thread that trains
  bool watches_ = false;                                          // likewise
  TouchOrder touches_;
  bool keep_pinned_later_ = false;  // likewise: late pages still use pinned memory
  CheckpointHelper checkpoint_;
  absl::Mutex deep_mu_;
  std::string why_not_deep_ ABSL_GUARDED_BY(deep_mu_);
  std::thread watch_;  // of the thread that trains; ends with the deep pause
  std::atomic<int64_t> interpreter_wanted_ns_{0};  // relaxed: a lone number; 0: not wanted
};

}  // namespace tide::runtime

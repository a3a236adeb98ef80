#include "runtime/runtime.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <thread>
#include <tuple>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/log.h"
#include "base/options.h"
#include "base/status.h"
#include "pages/host_backend.h"
#include "runtime/cuda_job.h"
#include "runtime/sampler.h"
#include "shm/futex.h"
#include "shm/process.h"
#include "shm/slot_table.h"

namespace tide::runtime {
namespace {

// Fork handlers and the C function table have no context argument; torch forces one allocator per
// process.
std::atomic<Runtime*> g_runtime{nullptr};

absl::StatusOr<int> ParsePriority(const std::string& text) {
  if (text == "opportunistic") return 0;
  if (text == "normal" || text.empty()) return 1;
  if (text == "guaranteed") return 2;
  return absl::InvalidArgumentError(
      absl::StrCat("priority \"", text, "\" is not one of guaranteed, normal, opportunistic"));
}

absl::StatusOr<double> Fraction(absl::string_view option) {
  const std::string text = TextOption(option);
  double value = 0;
  if (absl::SimpleAtod(text, &value)) return value;
  return absl::InvalidArgumentError(absl::StrCat(option, " \"", text, "\" is no number"));
}

absl::StatusOr<sched::PaceOptions> ReadPaceOptions() {
  sched::PaceOptions pace;
  TIDE_ASSIGN_OR_RETURN(pace.law, sched::ParsePaceLaw(TextOption("pace.law")));
  TIDE_ASSIGN_OR_RETURN(pace.loss_allowed, Fraction("pace.loss_allowed"));
  TIDE_ASSIGN_OR_RETURN(pace.pace_min, Fraction("pace.min"));
  TIDE_RETURN_IF_ERROR(sched::CheckPaceOptions(pace));
  return pace;
}

// Leaves a note of the children in the slot, for who finds it when its owner is dead.
void NoteChildren(shm::JobSlot& slot, const std::vector<pid_t>& children) {
  size_t kept = 0;
  for (const pid_t child : children) {
    if (kept == shm::kChildrenKept) break;
    const uint64_t start = shm::StartTime(child);
    if (start > 0) {
      slot.children[kept++].store(shm::ChildWord::Make(child, start), std::memory_order_relaxed);
    }
  }
  while (kept < shm::kChildrenKept) slot.children[kept++].store(0, std::memory_order_relaxed);
}

}  // namespace

absl::StatusOr<JobOptions> JobOptions::FromOptions() {
  JobOptions options;
  options.name = TextOption("job.name");
  if (options.name.empty()) options.name = absl::StrCat("job-", getpid());
  TIDE_ASSIGN_OR_RETURN(options.priority, ParsePriority(TextOption("job.priority")));
  TIDE_ASSIGN_OR_RETURN(options.limit, ParseBytes(TextOption("job.limit")));
  TIDE_ASSIGN_OR_RETURN(options.guaranteed, ParseBytes(TextOption("job.min_memory")));
  options.lane = static_cast<int>(IntOption("lane"));
  TIDE_ASSIGN_OR_RETURN(const OptionValue lane, GetOption("lane"));
  options.lane_fixed = lane.origin != "default";
  options.lanes_max = static_cast<int>(IntOption("lane.max"));
  if (options.lanes_max < 1 || options.lanes_max > shm::kLaneCount) {
    return absl::InvalidArgumentError(
        absl::StrCat("lane.max ", options.lanes_max, " is not between 1 and ", shm::kLaneCount));
  }
  const std::string admission = TextOption("admission");
  if (admission != "stream" && admission != "queue") {
    return absl::InvalidArgumentError(
        absl::StrCat("admission \"", admission, "\" is not one of stream, queue"));
  }
  options.queue = admission == "queue";
  options.iterations = IntOption("job.iterations");
  TIDE_ASSIGN_OR_RETURN(options.pace, ReadPaceOptions());
  if (options.lane < -1 || options.lane >= shm::kLaneCount) {
    return absl::InvalidArgumentError(
        absl::StrCat("lane ", options.lane, " is not between -1 (none) and ", shm::kLaneCount - 1));
  }
  return options;
}

Runtime* Runtime::Current() { return g_runtime.load(std::memory_order_acquire); }

void Runtime::WakeJobOf(pid_t pid) {
  Runtime* const self = Current();
  if (self == nullptr) return;
  for (shm::JobSlot& slot : self->device_->table().slots) {
    if (shm::IsLive(slot) && slot.pid.load(std::memory_order_relaxed) == pid) shm::WakeSlot(slot);
  }
}

absl::StatusOr<Runtime*> Runtime::Start(const JobOptions& options) {
  if (Runtime* running = Current(); running != nullptr) return running;
  TIDE_ASSIGN_OR_RETURN(auto device, shm::DeviceFile::Open(shm::RuntimeDir()));
  TIDE_ASSIGN_OR_RETURN(const SlotId slot, device->Claim(options.name));
  auto* runtime = new Runtime(options, std::move(device), slot);
  if (absl::Status status = runtime->Init(); !status.ok()) {
    runtime->device_->Free(slot);
    return status;  // the object stays: threads may not have been started, but nothing may be freed
                    // twice
  }
  g_runtime.store(runtime, std::memory_order_release);
  runtime->InstallForkHandlers();
  std::thread([runtime] { runtime->SamplerLoop(); }).detach();
  return runtime;
}

Runtime::Runtime(const JobOptions& options, std::unique_ptr<shm::DeviceFile> device, SlotId slot_id)
    : options_(options),
      device_(std::move(device)),
      slot_id_(slot_id),
      clock_(RealClock()),
      backend_(pages::MakeHostBackend(BoolOption("memory.huge_pages"))),
      account_(*device_, slot_id),
      lane_account_(*device_, slot_id) {
  FillApi(api_);
}

absl::Status Runtime::Init() {
  const Bytes stated(BytesOption("device.capacity"));
  if (stated > Bytes(0)) {
    device_->SetCapacity(stated);
  } else if (device_->Capacity() == Bytes(0)) {
    device_->SetCapacity(DeriveCapacity(device_->Used(), Bytes(BytesOption("device.reserve"))));
  }
  slot().priority.store(options_.priority, std::memory_order_relaxed);
  slot().weight_milli.store(options_.weight_milli, std::memory_order_relaxed);
  slot().budget_bytes_max.store(options_.limit.value(), std::memory_order_relaxed);
  slot().budget_bytes_guaranteed.store(options_.guaranteed.value(), std::memory_order_relaxed);
  arena::ArenaOptions arena_options;
  arena_options.address_space = Bytes(BytesOption("memory.reserve_address_space"));
  arena_options.learn_from = IntOption("memory.learn_from");
  arena_options.learn_iterations = static_cast<int>(IntOption("memory.learn_iterations"));
  arena_options.skip_privatise = BoolOption("test.skip_privatise");
  TIDE_ASSIGN_OR_RETURN(arena_, arena::Arena::Create(arena_options, *backend_, account_,
                                                     lane_account_, [this](Bytes bytes, bool last) {
                                                       return NeedMemory(bytes, last);
                                                     }));
  pager_ = std::make_unique<Pager>(*arena_, *backend_);
  pacer_ = std::make_unique<Pacer>(*device_, slot_id_, options_.pace);
  meter_ = std::make_unique<StepMeter>(*device_, slot_id_);
  account_.SetLimit(options_.limit);
  Sample();
  if (options_.limit > Bytes(0)) TIDE_RETURN_IF_ERROR(EnsureSpill());
  return absl::OkStatus();
}

void Runtime::Sample() {
  // Pages that move between the two looks would be counted on the wrong side: look again.
  constexpr int kLooks = 3;
  arena::ArenaStats stats = arena_->Stats();
  ProcessMemory memory;
  Bytes committed;
  for (int look = 0; look < kLooks; ++look) {
    memory = MeasureProcessTree(getpid());
    const Bytes before = stats.committed_bytes;
    stats = arena_->Stats();
    committed = std::max(before, stats.committed_bytes);
    if (before == stats.committed_bytes) break;
  }
  shm::JobSlot& own = slot();
  NoteChildren(own, memory.children);
  const Bytes file_resident = SampleFileTier();
  const Bytes outside_now = std::max(memory.anonymous - committed, Bytes(0)) + memory.page_tables;
  const Bytes outside = RecentOutside(outside_now);
  pager_->AtSafePoint();  // what was touched without an operator leaves too
  own.outside_bytes.store(outside.value(), std::memory_order_relaxed);
  own.outside_now_bytes.store(outside_now.value(), std::memory_order_relaxed);
  own.demoted_bytes.store(stats.demoted_bytes.value(), std::memory_order_relaxed);
  const Bytes now = outside_now + file_resident + stats.committed_bytes;
  if (now.value() > own.peak_bytes.load(std::memory_order_relaxed)) {
    own.peak_bytes.store(now.value(), std::memory_order_relaxed);
  }
}

Bytes Runtime::SampleFileTier() {
  Bytes resident;
  for (const auto& page : arena_->FilePages()) {
    const Bytes bytes = backend_->Resident(page.at, kPage);
    resident += bytes;
    if (bytes > Bytes(0)) arena_->NoteFound(page);
  }
  slot().file_resident_bytes.store(resident.value(), std::memory_order_relaxed);
  slot().file_now_bytes.store(resident.value(), std::memory_order_relaxed);
  return resident;
}

void Runtime::ChargeStreamed() {
  // Upwards at once, downwards when the sampler has asked the kernel: an operator may bring in all
  // that it was given.
  const int64_t streamed = (arena_->streamed() + pager_->dropping()).bytes().value();
  for (std::atomic<int64_t>* bytes : {&slot().file_resident_bytes, &slot().file_now_bytes}) {
    if (streamed > bytes->load(std::memory_order_relaxed))
      bytes->store(streamed, std::memory_order_relaxed);
  }
}

Bytes Runtime::RecentOutside(Bytes now) {
  // Libraries take scratch of their own within an operator and give it back: what counts is the
  // most of the last five seconds, since it will be taken again before anybody could react.
  constexpr int64_t kRecentNanos = 5'000'000'000;
  const int64_t time = clock_.MonotonicNanos();
  absl::MutexLock lock(&outside_mu_);
  outside_history_.emplace_back(time, now);
  while (outside_history_.front().first < time - kRecentNanos) outside_history_.pop_front();
  Bytes most;
  for (const auto& [when, bytes] : outside_history_) most = std::max(most, bytes);
  return most;
}

void Runtime::SamplerLoop() {
  // A measurement at a fixed rate, and whenever much has moved; the process ends without waiting
  // for this thread.
  constexpr int64_t kPeriodNanos = 250'000'000;
  // The file tier's pages come and go within an operator: looked at more often, as long as that
  // costs less than two percent of a core.
  constexpr int64_t kFilePeriodNanos = 50'000'000, kRestPerCost = 50;
  int64_t file_period = kFilePeriodNanos, sampled_at = 0;
  for (;;) {
    // acquire: pairs with SampleSoon, so that the measurement sees what was moved before it
    const uint32_t seen = sample_word_.load(std::memory_order_acquire);
    const bool streams = slot().demoted_bytes.load(std::memory_order_relaxed) > 0;
    const int64_t period = streams ? std::min(file_period, kPeriodNanos) : kPeriodNanos;
    if (seen == sampled_word_) shm::FutexWait(sample_word_, seen, absl::Nanoseconds(period));
    const uint32_t word = sample_word_.load(std::memory_order_acquire);
    const int64_t begin = clock_.MonotonicNanos();
    if (word == sampled_word_ && begin - sampled_at < kPeriodNanos) {
      SampleFileTier();
      const int64_t cost = clock_.MonotonicNanos() - begin;
      file_period = std::max(kFilePeriodNanos, kRestPerCost * cost);
      continue;
    }
    sampled_word_ = word;
    sampled_at = begin;
    Sample();
    RelieveDevice();
    const auto [suspend_s, resume_s] = PredictedSeconds();
    absl::MutexLock lock(&link_mu_);
    if (link_) link_->Report(suspend_s, resume_s);
  }
}

void Runtime::SampleSoon() {
  sample_word_.fetch_add(1, std::memory_order_release);
  shm::FutexWake(sample_word_, 1);
}

std::pair<double, double> Runtime::PredictedSeconds() {
  CudaJob::Predicted sum;
  if (const CudaJob* cuda = CudaJob::Current()) sum = cuda->Predict();
  absl::MutexLock lock(&report_mu_);
  return {sum.suspend_s + report_.predicted_suspend_seconds,
          sum.resume_s + report_.predicted_resume_seconds};
}

RuntimeReport Runtime::Report() {
  RuntimeReport report;
  {
    absl::MutexLock lock(&report_mu_);
    report = report_;
  }
  std::tie(report.predicted_suspend_seconds, report.predicted_resume_seconds) = PredictedSeconds();
  report.arena = arena_->Stats();
  report.iterations = iterations_.load(std::memory_order_relaxed);
  report.suspended = suspended_.load(std::memory_order_relaxed);
  report.wait_seconds_total =
      static_cast<double>(waited_ns_.load(std::memory_order_relaxed)) * 1e-9;
  report.pace = slot().pace_ppm.load(std::memory_order_relaxed) / 1e6;
  report.paced_seconds_total =
      static_cast<double>(paced_ns_.load(std::memory_order_relaxed)) * 1e-9;
  report.budget_revision = slot().budget_revision.load(std::memory_order_relaxed);
  report.peak_bytes = Bytes(slot().peak_bytes.load(std::memory_order_relaxed));
  report.device_path = device_->path();
  absl::MutexLock lock(&spill_mu_);
  if (spill_) report.spill_used = spill_->used();
  return report;
}

std::string Runtime::MemoryTable() {
  const Bytes capacity = device_->Capacity();
  std::string table = absl::StrFormat("%-20s %10s %10s %10s %10s  %s\n", "job", "resident",
                                      "private", "outside", "demoted", "turn");
  for (const shm::Holder& holder : device_->WhoHoldsWhat()) {
    absl::StrAppendFormat(
        &table, "%-20s %10s %10s %10s %10s  %s%s\n", holder.name, FormatBytes(holder.used()),
        FormatBytes(holder.private_bytes), FormatBytes(holder.outside), FormatBytes(holder.demoted),
        holder.has_turn ? "yes" : "", holder.slot == slot_id_ ? " (this job)" : "");
  }
  absl::StrAppend(&table, "used ", FormatBytes(device_->Used()), " of ",
                  capacity > Bytes(0) ? FormatBytes(capacity) : std::string("unlimited"), "\n");
  return table;
}

void Runtime::FillApi(TideCoreApi& api) {
  api = TideCoreApi{};
  api.version = TIDE_CORE_API_VERSION;
  api.struct_size = sizeof(TideCoreApi);
  api.allocate = [](size_t size, void** out, char* message_out, size_t message_size) -> int {
    Runtime* self = g_runtime.load(std::memory_order_acquire);
    static const size_t block_min = static_cast<size_t>(BytesOption("memory.block_min"));
    if (size < block_min) {
      self->arena_->CountSmall();
      return TIDE_PASS_THROUGH;
    }
    if (self->arena_->passes_through()) return TIDE_PASS_THROUGH;
    auto block = self->arena_->Allocate(size);
    if (block.ok()) {
      self->pager_->AtSafePoint();
      *out = *block;
      return TIDE_ALLOCATED;
    }
    absl::SNPrintF(message_out, message_size,
                   "torchtide: out of memory: a block of %s does not fit: %s\n%s"
                   "To go on: `tide limit JOB SIZE` for another job, a higher limit for this one, "
                   "or a smaller batch.",
                   FormatBytes(Bytes(static_cast<int64_t>(size))),
                   std::string(block.status().message()), self->MemoryTable());
    return TIDE_OUT_OF_MEMORY;
  };
  api.owns = [](const void* pointer) -> int {
    return g_runtime.load(std::memory_order_acquire)->arena_->Owns(pointer) ? 1 : 0;
  };
  api.release = [](void* pointer) {
    g_runtime.load(std::memory_order_acquire)->arena_->Free(pointer);
  };
  api.next_operator = [] {
    Runtime* self = g_runtime.load(std::memory_order_acquire);
    self->arena_->NextOperator();
    self->pager_->AtSafePoint();
    self->ChargeStreamed();
  };
  api.touch = [](const void* pointer, size_t size) {
    Runtime* self = g_runtime.load(std::memory_order_acquire);
    if (self->arena_->recording()) self->arena_->Touch(pointer, size);
  };
  api.pace_operator = [](int may_wait) {
    Runtime* self = g_runtime.load(std::memory_order_acquire);
    if (!self->arena_->passes_through()) self->PaceOperator(may_wait != 0);
  };
}

void Runtime::InstallForkHandlers() {
  pthread_atfork([] { Current()->arena_->BeforeFork(); },
                 [] { Current()->arena_->AfterForkInParent(); },
                 [] {
                   Runtime* self = Current();
                   self->arena_->AfterForkInChild();
                   self->pager_->AbandonAfterFork();
                   self->AbandonLinkAfterFork();
                 });
}

// The lock may be held by a thread that does not exist here, so it is not taken; the child has one
// thread.
void Runtime::AbandonLinkAfterFork() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (link_) link_->AbandonAfterFork();
}

void Runtime::Register(const std::string& script) {
  if (TextOption("daemon") == "off") return;
  absl::MutexLock lock(&link_mu_);
  if (link_) return;
  LinkOptions link;
  link.name = options_.name;
  link.script = script;
  link.priority = options_.priority;
  link.limit = options_.limit;
  link.guaranteed = options_.guaranteed;
  link.slot = slot_id_;
  link_ = std::make_unique<DaemonLink>(link, *device_, orders_);
  link_->TakeOrdersThrough(job_orders_);
}

void Runtime::TakeOrdersThrough(std::shared_ptr<JobOrders> job) {
  absl::MutexLock lock(&link_mu_);
  job_orders_ = std::move(job);
  if (link_) link_->TakeOrdersThrough(job_orders_);
}

std::string Runtime::name() {
  absl::MutexLock lock(&link_mu_);
  return link_ ? link_->name() : options_.name;
}

void Runtime::Tell(absl::string_view kind, absl::string_view text) {
  Log(LogLevel::kInfo, absl::StrCat("event=", kind, " text=\"", text, "\""));
  absl::MutexLock lock(&link_mu_);
  if (link_) link_->Event(kind, text);
}

void Runtime::SayBye(int status) {
  if (arena_->passes_through()) return;
  absl::MutexLock lock(&link_mu_);
  if (link_) link_->Bye(status & 0xff);
}

void Runtime::Shutdown(std::optional<int> exit_code) {
  if (arena_->passes_through()) return;  // a forked child owns nothing
  // What fails here is tried again where the process ends.
  if (CudaJob* cuda = CudaJob::Current()) cuda->Thaw().IgnoreError();
  Leave().IgnoreError();
  if (exit_code) {
    SayBye(*exit_code);
  } else if (!std::exchange(says_bye_at_exit_, true)) {
    on_exit([](int status, void*) { Current()->SayBye(status); }, nullptr);
  }
  // What the process holds goes when the kernel takes it back, not now: an interpreter with much to
  // tear down is in no hurry.
  device_->Retire(slot_id_);
  if (CudaJob* cuda = CudaJob::Current()) cuda->Retire();
}

}  // namespace tide::runtime

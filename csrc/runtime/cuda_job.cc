#include "runtime/cuda_job.h"

#include <pthread.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/options.h"
#include "base/status.h"
#include "runtime/runtime.h"
#include "runtime/sampler.h"
#include "sched/victims.h"
#include "shm/runtime_dir.h"
#include "shm/slot_table.h"

namespace tide::runtime {
namespace {

using pages::DeviceTier;
namespace cuda = pages::cuda;

std::atomic<CudaJob*> g_job{nullptr};
std::atomic<bool> g_forked{false};  // this process is the child of one that had a job

/// Adapter functions have the driver's signatures and no context argument: there is one job. A
/// forked child hears what the driver itself would say to it.
template <auto Method>
struct Forward;
template <typename Result, typename... Arguments,
          Result (pages::DevicePages::*Method)(Arguments...)>
struct Forward<Method> {
  static Result Call(Arguments... arguments) {
    CudaJob* job = CudaJob::Current();
    if (job == nullptr) return cuda::kNotInitialized;
    job->AwaitThaw();  // as the driver would have it, and with no lock of ours held
    return (job->pages().*Method)(arguments...);
  }
};

/// Names of tables are at most 32 letters and digits: "cuda_" and the last 27 of the identifier's.
std::string TableName(const std::string& uuid) {
  std::string digits;
  for (char c : uuid.substr(uuid.find('-') + 1)) {
    if (c != '-') digits += c;
  }
  return absl::StrCat("cuda_", digits.substr(digits.size() - std::min<size_t>(digits.size(), 27)));
}

template <auto Method>
void* Replacement() {
  return reinterpret_cast<void*>(&Forward<Method>::Call);
}

}  // namespace

CudaJob* CudaJob::Current() { return g_job.load(std::memory_order_acquire); }

absl::StatusOr<CudaJob*> CudaJob::Start(const std::string& name) {
  if (CudaJob* running = Current(); running != nullptr) return running;
  if (g_forked.load(std::memory_order_relaxed)) {
    return absl::FailedPreconditionError(
        "this process was forked from one that uses the device, and no driver works there");
  }
  TIDE_ASSIGN_OR_RETURN(auto driver, cuda::Driver::Open(TextOption("cuda.driver")));
  std::unique_ptr<CudaJob> job(new CudaJob(std::move(driver)));
  std::vector<pages::Account*> accounts;
  for (int i = 0; i < job->device_count(); ++i) {
    if (absl::Status status = job->OpenDevice(name, i); !status.ok()) {
      for (auto& device : job->devices_) device->file->Free(device->slot);
      return status;
    }
    accounts.push_back(job->devices_.back()->account.get());
  }
  pages::DevicePagesOptions options;
  options.spare_max = Bytes(BytesOption("cuda.spare_max"));
  options.host_mapping = BoolOption("cuda.host_mapping");
  options.need_memory = [raw = job.get()](int device, Bytes size) {
    return raw->NeedMemory(device, size);
  };
  job->pages_ = std::make_unique<pages::DevicePages>(*job->driver_, accounts, std::move(options));
  job->segments_ = std::make_unique<pages::DeviceSegments>(*job->driver_, *job->pages_);
  job->shares_ = std::make_unique<pages::DeviceShares>(*job->driver_);
  job->late_ = std::make_unique<LateReturn>(*job->pages_);
  job->FillAdapterCalls();
  g_job.store(job.release(), std::memory_order_release);
  // Workers of a data loader must touch neither ledger nor locks of their parent.
  pthread_atfork(nullptr, nullptr, [] {
    if (CudaJob* parents = g_job.exchange(nullptr)) {
      if (parents->chunk_server_ != nullptr) parents->chunk_server_->AbandonAfterFork();
      g_forked.store(true, std::memory_order_relaxed);
    }
  });
  return Current();
}

absl::Status CudaJob::OpenDevice(const std::string& name, int index) {
  auto device = std::make_unique<Device>();
  TIDE_ASSIGN_OR_RETURN(device->file, shm::DeviceFile::Open(shm::RuntimeDir(),
                                                            TableName(driver_->DeviceUuid(index))));
  TIDE_ASSIGN_OR_RETURN(device->slot, device->file->Claim(name));
  device->account = std::make_unique<JobAccount>(*device->file, device->slot);
  device->name = driver_->DeviceName(index);
  device->uuid = driver_->DeviceUuid(index);
  devices_.push_back(std::move(device));
  return absl::OkStatus();
}

void CudaJob::FillAdapterCalls() {
  using pages::DevicePages;
  struct Call {
    const char* name;
    void* replacement;
  };
  const Call calls[] = {
      {"cuMemCreate", Replacement<&DevicePages::Create>()},
      {"cuMemRelease", Replacement<&DevicePages::Release>()},
      {"cuMemMap", Replacement<&DevicePages::Map>()},
      {"cuMemUnmap", Replacement<&DevicePages::Unmap>()},
      {"cuMemSetAccess", Replacement<&DevicePages::SetAccess>()},
      {"cuMemExportToShareableHandle", Replacement<&DevicePages::Export>()},
  };
  for (const Call& call : calls) {
    adapter_calls_.push_back({call.name,
                              call.replacement,
                              {driver_->Symbol(call.name), driver_->LookUp(call.name, 12000),
                               driver_->LookUp(call.name, driver_->version())}});
  }
}

// ---- budget ----

Bytes CudaJob::SetLimit(int index, Bytes limit) {
  Device& device = *devices_[index];
  device.account->SetLimit(limit);
  // relaxed: for the reports of others
  device.file->slot(device.slot).budget_bytes_max.store(limit.value(), std::memory_order_relaxed);
  if (limit == Bytes(0)) return Bytes(0);
  // What is away comes back to the same limit.
  const Bytes away = Aside(index) + pages_->counts(index).lane;
  return std::max(device.account->private_bytes() + away - limit, Bytes(0));
}

bool CudaJob::NeedMemory(int index, Bytes bytes) {
  // The allocator's lock is held above us: bounded, and not again for every page of one request.
  constexpr int64_t kBackoffNanos = 500'000'000;
  Device& device = *devices_[index];
  const Bytes limit = device.account->limit();
  if (limit > Bytes(0) && device.account->private_bytes() + bytes > limit) {
    return MoveColdNow(index, bytes);
  }
  const int64_t now = RealClock().MonotonicNanos();
  if (now - device.asked_in_vain_ns.load(std::memory_order_relaxed) >= kBackoffNanos) {
    if (AskAndWait(index, bytes)) return true;
    device.asked_in_vain_ns.store(RealClock().MonotonicNanos(), std::memory_order_relaxed);
  }
  return MoveColdNow(index, bytes);
}

bool CudaJob::AskAndWait(int index, Bytes bytes, Idle idle) {
  // A death is announced by nobody, and who asks this job wakes it elsewhere.
  constexpr absl::Duration kLookAround = absl::Milliseconds(20);
  constexpr absl::Duration kReapPatience = absl::Milliseconds(5);
  constexpr int64_t kAskAgainNanos = 250'000'000;  // each time costs another its cache
  Device& device = *devices_[index];
  auto missing_by_ledger = [&] {
    // Contexts and libraries grow unseen: only the driver knows what they leave.
    CudaReport now_there;
    MeasureOutside(index, &now_there);
    const Bytes capacity = device.file->Capacity();
    if (capacity <= Bytes(0)) return Bytes(0);  // unlimited
    return std::max(device.file->Used() + bytes - capacity, Bytes(0));
  };
  auto missing = [&] {
    const Bytes short_by = missing_by_ledger();
    if (short_by == Bytes(0) || device.file->ReapDead(kReapPatience) == 0) return short_by;
    return missing_by_ledger();
  };
  const int64_t begin = RealClock().MonotonicNanos();
  const int64_t deadline = begin + IntOption("need.wait_ms") * 1'000'000;
  int64_t ask_at = begin;
  uint32_t seen_then = 0;
  for (;;) {
    const uint32_t seen = device.file->FreedWord();
    const Bytes short_by = missing();
    // At once, when somebody has given memory back since the refusal.
    if (short_by == Bytes(0)) return true;
    const int64_t now = RealClock().MonotonicNanos();
    if (now >= ask_at) {
      // What has been asked before and is not given yet is as good, unless nothing comes of it:
      // then those are asked who have promised nothing.
      const bool comes = ask_at == begin || device.file->FreedWord() != seen_then;
      const Bytes promised = Promised(device);
      const Bytes missing_now = comes ? short_by - promised : short_by;
      const bool any =
          missing_now > Bytes(0) &&
          AskOthers(device, idle == Idle::kYes ? missing_now : HowMuchToAsk(device, missing_now),
                    comes ? Whom::kAnybody : Whom::kPromisedNothing);
      if (!any && ask_at == begin && promised == Bytes(0)) return false;
      seen_then = seen;
      ask_at = now + kAskAgainNanos;
    }
    if (now >= deadline || (idle == Idle::kYes && Asked(index) > Bytes(0))) return false;
    device.file->WaitFreed(seen, std::min(absl::Nanoseconds(deadline - now), kLookAround));
  }
}

Bytes CudaJob::Promised(const Device& device) {
  Bytes sum;
  for (int i = 0; i < shm::kSlotCount; ++i) {
    const shm::JobSlot& other = device.file->table().slots[i];
    if (!shm::IsLive(other) || SlotId(i) == device.slot) continue;
    // relaxed: figures of a moment
    sum +=
        std::min(Bytes(other.reclaim_bytes.load(std::memory_order_relaxed)), Resident(device, i));
  }
  return sum;
}

Bytes CudaJob::HowMuchToAsk(Device& device, Bytes need) {
  // A large request comes here page by page: twice as much each time, or it takes as many
  // boundaries of others as it has pages.
  constexpr int64_t kSameRequestNanos = 1'000'000'000;
  const int64_t now = RealClock().MonotonicNanos();
  // relaxed: a guess
  const int64_t before = device.last_ask_ns.exchange(now, std::memory_order_relaxed);
  const Bytes last(device.last_ask_bytes.load(std::memory_order_relaxed));
  if (now - before < kSameRequestNanos) {
    const Bytes most(device.file->Capacity().value() / 8);
    need = std::max(need, std::min(Bytes(last.value() * 2), most));
  }
  device.last_ask_bytes.store(need.value(), std::memory_order_relaxed);
  return need;
}

Bytes CudaJob::Resident(const Device& device, int slot) {
  const shm::DeviceTable& table = device.file->table();
  // relaxed: a figure of a moment
  return Bytes(table.slots[slot].private_bytes.load(std::memory_order_relaxed)) +
         shm::OwnChunkBytes(table, SlotId(slot));
}

bool CudaJob::AskOthers(Device& device, Bytes bytes, Whom whom) {
  std::vector<sched::VictimMember> members;
  for (int i = 0; i < shm::kSlotCount; ++i) {
    shm::JobSlot& other = device.file->table().slots[i];
    if (!shm::IsLive(other)) continue;
    // relaxed: figures of a moment
    const Bytes promised(other.reclaim_bytes.load(std::memory_order_relaxed));
    if (whom == Whom::kPromisedNothing && promised > Bytes(0)) continue;
    sched::VictimMember member;
    member.id = SlotId(i);
    member.resident = Resident(device, i);
    member.guaranteed = Bytes(other.budget_bytes_guaranteed.load(std::memory_order_relaxed));
    member.reclaimable = member.resident - promised;
    member.priority = static_cast<sched::Priority>(other.priority.load(std::memory_order_relaxed));
    member.last_run = absl::Nanoseconds(other.heartbeat_ns.load(std::memory_order_relaxed));
    members.push_back(member);
  }
  const sched::VictimChoice choice = sched::ChooseVictims(members, bytes, device.slot);
  for (const sched::Victim& victim : choice.victims) {
    device.file->slot(victim.id).reclaim_bytes.fetch_add(victim.bytes.value(),
                                                         std::memory_order_release);
    device.file->Wake(victim.id);
    // It may sleep where it waits for its turn.
    Runtime::WakeJobOf(device.file->slot(victim.id).pid.load(std::memory_order_relaxed));
  }
  return !choice.victims.empty();
}

void CudaJob::AnswerOthers(int index, Bytes answered) {
  // Subtracted, not cleared: whoever got its page may have asked for the next one meanwhile.
  // release: what was given back is in the ledger before
  Device& device = *devices_[index];
  device.file->slot(device.slot)
      .reclaim_bytes.fetch_sub(answered.value(), std::memory_order_release);
}

Bytes CudaJob::Asked(int index) const {
  // acquire: pairs with the asker's add
  const Device& device = *devices_[index];
  return Bytes(device.file->slot(device.slot).reclaim_bytes.load(std::memory_order_acquire));
}

// ---- moves ----

absl::Status CudaJob::Synchronize(int device) {
  if (frozen()) return absl::UnavailableError("the contexts of this job are away");
  const cuda::ScopedContext context(*driver_, device);
  TIDE_RETURN_IF_ERROR(context.status());
  return driver_->Check(driver_->calls().context_synchronize(), "wait for the device");
}

ShrinkResult CudaJob::Shrink(int device, Bytes need, const std::vector<pages::ColdRange>& cold,
                             bool any) {
  ShrinkResult result;
  const Bytes before = pages_->counts(device).device;
  pages_->TrimSpares(device, Bytes(0));
  const Bytes left = need - (before - pages_->counts(device).device);
  if (left > Bytes(0) && !pages_->host_mapping()) {
    result.reason =
        "the driver offers no host memory that the device can map, so pages cannot leave while "
        "the job runs";
  } else if (left > Bytes(0)) {
    const pages::DevicePlan plan =
        pages::PlanDeviceDemotion(pages_->Snapshot(device), cold, left, any);
    result.reason = plan.reason;
    for (cuda::Handle token : plan.tokens) {
      const absl::Status status = pages_->Demote(token, DeviceTier::kHostMapped);
      if (status.ok()) continue;
      result.reason = std::string(status.message());
      break;
    }
    pages_->TrimSpares(device, Bytes(0));  // what the demotions left there
  }
  result.moved = before - pages_->counts(device).device;
  result.short_by = std::max(need - result.moved, Bytes(0));
  return result;
}

absl::StatusOr<Bytes> CudaJob::Restore(int device) {
  Bytes away;
  for (const pages::DevicePage& page : pages_->Snapshot(device)) {
    if (page.tier != DeviceTier::kHostMapped) continue;
    const absl::Status status = away > Bytes(0) ? absl::OkStatus() : pages_->Promote(page.token);
    if (!status.ok() && !absl::IsResourceExhausted(status)) return status;
    if (!status.ok() || away > Bytes(0)) away += page.size;
  }
  return away;
}

absl::Status CudaJob::EnsureSpill() {
  if (spill_) return absl::OkStatus();
  pages::SpillOptions options;
  options.dir = TextOption("spill.dir");
  options.size_max = Bytes(BytesOption("spill.max"));
  options.disk_free_min = Bytes(BytesOption("spill.free_min"));
  TIDE_ASSIGN_OR_RETURN(spill_, pages::SpillFile::Open(options));
  pages_->set_spill(spill_.get());
  return absl::OkStatus();
}

absl::Status CudaJob::DemoteForSuspension(cuda::Handle token, DeviceTier to) {
  absl::Status status = pages_->Demote(token, to);
  if (status.ok() || to != DeviceTier::kHostCopy || !EnsureSpill().ok()) return status;
  // The host has no pinned memory left, or the driver would not: the file is slower and larger.
  const absl::Status in_file = pages_->Demote(token, DeviceTier::kFile);
  return in_file.ok() ? in_file : status;
}

DeviceTier CudaJob::PrepareHost(Bytes bytes) {
  pages::PinnedPool& pool = pages_->pinned();
  const Bytes missing = bytes - (pool.held() - pool.used());
  // Filling in memory that is not there would end in the kernel's killer, not in an error.
  const Bytes available = DeriveCapacity(Bytes(0), Bytes(BytesOption("device.reserve")));
  if (missing > available && EnsureSpill().ok()) return DeviceTier::kFile;
  pool.Prepare(bytes);
  return DeviceTier::kHostCopy;
}

void CudaJob::KeepPinned() {
  pages::PinnedPool& pool = pages_->pinned();
  const Bytes held = pool.held();
  if (held == Bytes(0)) return;
  pool.Trim(AffordableReserve(held, Bytes(BytesOption("cuda.pinned_keep"))));
}

absl::StatusOr<Bytes> CudaJob::Suspend(int index, DeviceTier to) {
  if (to == DeviceTier::kFile) TIDE_RETURN_IF_ERROR(EnsureSpill());
  TIDE_RETURN_IF_ERROR(FinishReturn());
  StopWatching();
  Device& device = *devices_[index];
  const int64_t begin = clock_->MonotonicNanos();
  const pages::DeviceCounts before = pages_->counts(index);
  const Bytes held = pages_->pinned().held();
  const std::vector<Leaving> all = MayLeave(index);
  Bytes bytes;
  for (const Leaving& leaving : all) bytes += leaving.unwanted ? Bytes(0) : leaving.page.size;
  if (to == DeviceTier::kHostCopy) {
    to = PrepareHost(bytes);
    device.leaves_to_file.store(to == DeviceTier::kFile, std::memory_order_relaxed);
  }
  std::vector<cuda::Handle> begun;
  for (const Leaving& leaving : all) {
    begun.push_back(leaving.page.token);
    const absl::Status status = Leave(leaving, to);
    if (status.ok()) continue;
    const absl::Status back = PromoteAll(index, begun);
    KeepPinned();
    if (!back.ok()) {
      device.suspended = true;
      return absl::Status(status.code(),
                          absl::StrCat(status.message(), "; what had left could not return (",
                                       back.message(), "), so the device stays suspended"));
    }
    return status;
  }
  pages_->TrimSpares(index, Bytes(0));
  device.suspended = true;
  NoteLeft(index, before, held, begin);
  return before.device - pages_->counts(index).device;
}

}  // namespace tide::runtime

#include "runtime/cuda_lane.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/options.h"
#include "base/status.h"
#include "shm/runtime_dir.h"
#include "shm/slot_table.h"

namespace tide::runtime {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
// A member answers from a thread that does nothing else; one that is stopped never does.
constexpr absl::Duration kPatience = absl::Milliseconds(250);
constexpr absl::Duration kReapPatience = absl::Milliseconds(20);
constexpr int64_t kQuietNanos = 1'000'000'000;

std::string TableOf(const shm::DeviceFile& file) {
  return file.path().substr(file.path().rfind('/') + 1);
}

}  // namespace

// ---- chunks of others ----

absl::StatusOr<UniqueFd> LaneSource::Hold(Bytes size, int count) {
  const int64_t now = RealClock().MonotonicNanos();
  if (now < quiet_until_ns_.load(kRelaxed))
    return absl::UnavailableError("another member of the lane did not answer");
  absl::Status refused;
  // The second time without those that have died.
  for (int attempt = 0; attempt < 2; ++attempt) {
    const auto pids = file_.HoldChunks(slot_, size, count);
    if (absl::IsDeadlineExceeded(pids.status()))
      return absl::UnavailableError(pids.status().message());
    TIDE_RETURN_IF_ERROR(pids.status());
    absl::StatusOr<UniqueFd> fd = AskMembers(*pids, size, count - 1);
    if (fd.ok()) {
      TellPeak();
      return fd;
    }
    refused = fd.status();
    Keep(size, count - 1);
    if (!absl::IsNotFound(refused)) break;
    file_.ReapDead(kReapPatience);
  }
  quiet_until_ns_.store(now + kQuietNanos, kRelaxed);
  Log(LogLevel::kWarning, absl::StrCat("event=chunk_not_shared status=\"", refused.ToString(),
                                       "\" advice=\"the page is private until it is\""));
  return absl::UnavailableError(refused.message());
}

absl::StatusOr<UniqueFd> LaneSource::AskMembers(const std::vector<int32_t>& pids, Bytes size,
                                                int index) {
  const LaneId lane(file_.slot(slot_).lane.load(kRelaxed));  // relaxed: our own
  const lane::ChunkRequest request{TableOf(file_), lane, size, index};
  absl::StatusOr<UniqueFd> fd = UniqueFd();  // nobody has it: it is made
  for (int32_t pid : pids) {
    fd = lane::RequestChunk(shm::RuntimeDir(), pid, request, kPatience);
    if (fd.ok()) break;
  }
  return fd;
}

void LaneSource::Keep(Bytes size, int count) {
  file_.HoldChunks(slot_, size, count).IgnoreError();
  TellPeak();
}

void LaneSource::TellPeak() {
  // relaxed: our own; the account counts it to the limit
  file_.slot(slot_).scratch_peak_bytes.store(shm::ChunkBytes(file_.table(), slot_).value(),
                                             kRelaxed);
}

// ---- membership ----

CudaLane::CudaLane(const pages::cuda::Driver& driver, pages::DevicePages& pages,
                   shm::DeviceFile& file, SlotId slot, int device)
    : pages_(pages),
      file_(file),
      slot_(slot),
      device_(device),
      source_(file, slot),
      chunks_(driver, device, source_) {
  pages_.set_chunks(device, &chunks_);
}

CudaLane::~CudaLane() { pages_.set_chunks(device_, nullptr); }

absl::Status CudaLane::Join(LaneId lane) {
  if (lane_ == lane && !Stale()) return absl::OkStatus();
  TIDE_RETURN_IF_ERROR(Leave());
  TIDE_ASSIGN_OR_RETURN(const shm::FileLock lock, file_.Lock());
  shm::JobSlot& own = file_.slot(slot_);
  // relaxed: read under the lock
  own.lane_generation.store(file_.lane(lane).generation.load(kRelaxed), kRelaxed);
  own.lane.store(lane.value(), kRelaxed);
  lane_ = lane;
  return absl::OkStatus();
}

absl::Status CudaLane::Leave() {
  if (lane_ == LaneId()) return absl::OkStatus();
  TIDE_RETURN_IF_ERROR(pages_.DropLane(device_));
  if (chunks_.held() > Bytes(0))
    return absl::UnavailableError("the driver has not taken all chunks of the lane back");
  TIDE_ASSIGN_OR_RETURN(const shm::FileLock lock, file_.Lock());
  file_.slot(slot_).lane.store(-1, kRelaxed);
  lane_ = LaneId();
  return absl::OkStatus();
}

bool CudaLane::Stale() const {
  const shm::JobSlot& own = file_.slot(slot_);
  const LaneId lane(own.lane.load(kRelaxed));
  // acquire: pairs with RenewChunks
  return lane.value() >= 0 && file_.lane(lane).generation.load(std::memory_order_acquire) !=
                                  own.lane_generation.load(kRelaxed);
}

Bytes CudaLane::Missing() const {
  std::map<Bytes, int> pages;
  for (const pages::DevicePage& page : pages_.Snapshot(device_)) {
    if (page.tier == pages::DeviceTier::kLane) ++pages[page.size];
  }
  Bytes missing;
  const shm::DeviceTable& table = file_.table();
  const uint64_t generation = file_.slot(slot_).lane_generation.load(kRelaxed);
  for (const auto& [size, count] : pages) {
    int there = 0;
    for (int i = 0; i < shm::kChunkSizes; ++i) {
      if (table.lanes[lane_.value()].chunk_bytes[i].load(kRelaxed) == size.value())
        there = shm::MostChunks(table, lane_, generation, i);
    }
    missing += size * std::max(count - there, 0);
  }
  return missing;
}

Bytes CudaLane::Own() const { return shm::OwnChunkBytes(file_.table(), slot_); }

absl::StatusOr<UniqueFd> CudaLane::Export(const lane::ChunkRequest& request) {
  // Who asks has the turn, so this job's iteration has ended: else something is wrong with one.
  if (open()) return absl::UnavailableError("an iteration writes to it");
  if (Stale() || request.lane.value() != file_.slot(slot_).lane.load(kRelaxed))
    return absl::NotFoundError("not a member of that lane");
  return chunks_.Export(request.size, request.index);
}

// ---- boundary ----

absl::Status CudaLane::Settle(const pages::LanePool& pool) {
  const pages::LanePlan plan = pages::PlanLane(pages_.Snapshot(device_), pool, staying_);
  // First what gives memory, then what takes some.
  for (pages::cuda::Handle token : plan.to_lane) {
    const absl::Status status = pages_.ToLane(token);
    if (status.ok()) continue;
    Log(LogLevel::kInfo, absl::StrCat("event=stays_private device=", device_, " status=\"",
                                      status.ToString(), "\""));
    break;  // the next boundary tries again
  }
  absl::Status first_error;
  if (BoolOption("test.skip_privatise")) return first_error;
  for (pages::cuda::Handle token : plan.from_lane) {
    const absl::Status status = pages_.FromLane(token);
    // Another thread may have given it back to the driver meanwhile.
    if (!absl::IsNotFound(status) && !absl::IsFailedPrecondition(status))
      first_error.Update(status);
  }
  if (!plan.to_lane.empty() || !plan.from_lane.empty()) {
    pages_.TrimLane(device_);
    pages_.TrimSpares(device_, Bytes(0));
  }
  return first_error;
}

}  // namespace tide::runtime

// Iterations of a job on scratch that its lane shares: what happens around each on all devices.
#include "absl/strings/str_cat.h"
#include "base/atomics.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/options.h"
#include "base/status.h"
#include "runtime/cuda_job.h"
#include "shm/runtime_dir.h"
#include "shm/slot_table.h"

namespace tide::runtime {
namespace {

void LogTrouble(absl::string_view event, int device, const absl::Status& status) {
  Log(LogLevel::kWarning,
      absl::StrCat("event=", event, " device=", device, " status=\"", status.ToString(), "\""));
}

}  // namespace

CudaLane& CudaJob::LaneOf(int index) {
  Device& device = *devices_[index];
  if (device.lane == nullptr) {
    device.lane = std::make_unique<CudaLane>(*driver_, *pages_, *device.file, device.slot, index);
  }
  return *device.lane;
}

absl::Status CudaJob::StartChunkServer() {
  if (chunk_server_ != nullptr) return absl::OkStatus();
  TIDE_ASSIGN_OR_RETURN(
      chunk_server_,
      lane::ChunkServer::Start(
          shm::RuntimeDir(), [this](const lane::ChunkRequest& request) -> absl::StatusOr<UniqueFd> {
            for (const auto& device : devices_) {
              const std::string& path = device->file->path();
              if (path.substr(path.rfind('/') + 1) != request.table) continue;
              if (device->shares.load(std::memory_order_acquire))
                return device->lane->Export(request);
            }
            return absl::NotFoundError("no part in a lane of that device");
          }));
  return absl::OkStatus();
}

absl::Status CudaJob::EnterLane(LaneId lane) {
  if (!CanShare() || Capturing()) return absl::OkStatus();
  for (int i = 0; i < device_count(); ++i) {
    Device& device = *devices_[i];
    if (pages_->counts(i).creates == 0 || device.suspended) continue;
    CudaLane& own = LaneOf(i);
    if (own.open()) continue;  // the turn was kept
    absl::Status status = StartChunkServer();
    if (status.ok() && !own.joined()) {
      // What the first iterations left in PyTorch's cache is private, and nobody's any more.
      status = PrepareToMove(i);
    }
    if (status.ok()) status = own.Join(lane);
    if (!status.ok()) {
      // Iterations on private memory: as without lanes.
      LogTrouble("no_lane", i, status);
      continue;
    }
    // release: the server's thread sees the lane
    device.shares.store(true, std::memory_order_release);
    if (pages_->Unmapped(i) > Bytes(0)) TIDE_RETURN_IF_ERROR(MapLane(i));
  }
  return absl::OkStatus();
}

absl::Status CudaJob::MapLane(int index) {
  constexpr int kAttempts = 4;
  absl::Status status;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const Bytes need = devices_[index]->lane->Missing();
    const Bytes capacity = devices_[index]->file->Capacity();
    if (capacity > Bytes(0) && devices_[index]->file->Used() + need > capacity &&
        !AskAndWait(index, need, Idle::kYes)) {
      status = absl::ResourceExhaustedError(
          absl::StrCat("others have memory of device ", index, " that this job's scratch needs"));
      break;
    }
    const int64_t begin = RealClock().MonotonicNanos();
    status = pages_->MapLane(index);
    return_ns_ +=
        RealClock().MonotonicNanos() - begin;  // its turn is kept for longer, as for moves
    if (!absl::IsResourceExhausted(status)) break;
  }
  // Half of it helps nobody.
  if (!status.ok()) pages_->DropLane(index).IgnoreError();
  return status;
}

bool CudaJob::OpenLane() {
  bool any = false;
  for (int i = 0; i < device_count(); ++i) {
    Device& device = *devices_[i];
    if (!SharesLane(i)) continue;
    any = any || device.lane->open();
    // Stale: a waiter that took this job for stuck has left with the others.
    if (device.lane->open() || lanes_failed_ || Capturing() || device.lane->Stale() ||
        pages_->Unmapped(i) > Bytes(0))
      continue;
    any = true;
    device.lane->set_open(true);
    if (const absl::Status status = framework_.open_lane(i); !status.ok()) {
      LogTrouble("lane_not_opened", i, status);
      lanes_failed_ = !absl::IsCancelled(status);
    }
  }
  return any;
}

absl::Status CudaJob::CloseLane() {
  absl::Status all;
  for (int i = 0; i < device_count(); ++i) {
    Device& device = *devices_[i];
    if (device.lane == nullptr || !device.lane->open()) continue;
    if (Capturing())
      return absl::UnavailableError("a CUDA graph is being captured, and the turn is kept");
    const int64_t begin = RealClock().MonotonicNanos();
    absl::StatusOr<pages::LanePool> pool = framework_.close_lane(i);
    if (!pool.ok()) {
      LogTrouble("lane_not_closed", i, pool.status());
      lanes_failed_ = lanes_failed_ || !absl::IsCancelled(pool.status());
      pool = pages::LanePool();  // of which nothing is known: all of it is alive
    }
    absl::Status status = Synchronize(i);
    if (status.ok()) status = SettleLane(i, *pool);
    if (status.ok()) device.lane->set_open(false);
    all.Update(status);
    device.file->ReapDead(absl::Milliseconds(5));
    device.settle_ns.store(RealClock().MonotonicNanos() - begin, std::memory_order_relaxed);
  }
  return all;
}

absl::Status CudaJob::SettleLane(int index, const pages::LanePool& pool) {
  CudaLane& own = *devices_[index]->lane;
  absl::Status status = own.Settle(pool);
  if (absl::IsResourceExhausted(status) && framework_.flush && framework_.flush(index).ok())
    status = own.Settle(pool);
  if (absl::IsResourceExhausted(status)) {
    Bytes most;  // of one page: more is asked for by the next attempt
    for (const pages::DevicePage& page : pages_->Snapshot(index)) {
      if (page.tier == pages::DeviceTier::kLane) most = std::max(most, page.size);
    }
    if (AskAndWait(index, most)) status = own.Settle(pool);
  }
  return status;
}

void CudaJob::LeaveLane() {
  for (int i = 0; i < device_count(); ++i) {
    if (!SharesLane(i) || devices_[i]->lane->open()) continue;
    const absl::Status status = devices_[i]->lane->Leave();
    if (!status.ok()) LogTrouble("lane_not_left", i, status);
  }
}

Bytes CudaJob::GiveLane(int index) {
  if (!SharesLane(index) || devices_[index]->lane->open() || Capturing()) return Bytes(0);
  const Bytes own = devices_[index]->lane->Own();
  if (own == Bytes(0)) return own;
  if (const absl::Status status = pages_->DropLane(index); !status.ok())
    LogTrouble("lane_not_given", index, status);
  return own - devices_[index]->lane->Own();
}

bool CudaJob::InLane() const {
  for (int i = 0; i < device_count(); ++i) {
    if (SharesLane(i)) return true;
  }
  return false;
}

bool CudaJob::LaneIsOpen(int index) const {
  return devices_[index]->lane != nullptr && devices_[index]->lane->open();
}

absl::Status CudaJob::LeaveChunks(LaneId lane) {
  for (const auto& device : devices_) {
    bool used = false;
    for (int i = 0; i < shm::kSlotCount; ++i) {
      // relaxed: whoever joins now finds the new generation or has lost its turn
      const shm::JobSlot& slot = device->file->table().slots[i];
      // After that nobody is on them until the turn has passed: no second time for one holder.
      used = used || (shm::IsLive(slot) && slot.lane.load(kRelaxed) == lane.value() &&
                      slot.lane_generation.load(kRelaxed) ==
                          device->file->lane(lane).generation.load(kRelaxed));
    }
    if (used) TIDE_RETURN_IF_ERROR(device->file->RenewChunks(lane));
  }
  return absl::OkStatus();
}

}  // namespace tide::runtime

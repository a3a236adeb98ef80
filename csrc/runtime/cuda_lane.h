// This job's part in the scratch that the jobs of its lane share on one device.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <unordered_map>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/bytes.h"
#include "base/ids.h"
#include "base/unique_fd.h"
#include "lane/chunk_socket.h"
#include "pages/cuda_driver.h"
#include "pages/device_pages.h"
#include "pages/lane_chunks.h"
#include "pages/lane_plan.h"
#include "shm/device_file.h"

namespace tide::runtime {

/// The lane's books in the device's table, and other members' sockets.
class LaneSource final : public pages::ChunkSource {
 public:
  LaneSource(shm::DeviceFile& file, SlotId slot) : file_(file), slot_(slot) {}
  absl::StatusOr<UniqueFd> Hold(Bytes size, int count) override;
  void Keep(Bytes size, int count) override;

 private:
  absl::StatusOr<UniqueFd> AskMembers(const std::vector<int32_t>& pids, Bytes size, int index);
  void TellPeak();

  shm::DeviceFile& file_;  // borrowed
  const SlotId slot_;
  // relaxed: a guess; after somebody did not answer, nobody is asked for a while
  std::atomic<int64_t> quiet_until_ns_{0};
};

/// Of the thread that trains, between iterations and with an idle device, but for Export.
class CudaLane {
 public:
  /// All borrowed.
  CudaLane(const pages::cuda::Driver& driver, pages::DevicePages& pages, shm::DeviceFile& file,
           SlotId slot, int device);
  ~CudaLane();

  /// Becomes a member, giving up chunks of another lane or generation. Errors: of the driver,
  /// DeadlineExceeded.
  absl::Status Join(LaneId lane);
  /// Gives the chunks back, and with them the membership. Errors: of the driver; it stays one.
  absl::Status Leave();
  bool joined() const { return lane_ != LaneId(); }
  /// Whether the others have left the chunks that this job has: Join gets new ones.
  bool Stale() const;

  /// By how much the ledger grows when all pages of the lane have chunks again.
  Bytes Missing() const;
  /// Bytes that only this job has of the lane: given to others by dropping them.
  Bytes Own() const;

  /// Pages without a live block go to the lane, pages of the lane with one become private. Errors:
  /// of the second; those pages are on the lane still.
  absl::Status Settle(const pages::LanePool& pool);

  /// For another member. Errors: Unavailable while `open`, NotFound.
  absl::StatusOr<UniqueFd> Export(const lane::ChunkRequest& request);
  /// Whether an iteration writes to the lane's pages, or what it left there could not be saved.
  bool open() const { return open_.load(std::memory_order_acquire); }
  // release: who sees it closed sees the pages as the iteration left them
  void set_open(bool open) { open_.store(open, std::memory_order_release); }

 private:
  pages::DevicePages& pages_;
  shm::DeviceFile& file_;
  const SlotId slot_;
  const int device_;
  LaneSource source_;
  pages::LaneChunks chunks_;
  LaneId lane_;
  std::unordered_map<pages::cuda::Handle, int> staying_;
  std::atomic<bool> open_{false};
};

}  // namespace tide::runtime

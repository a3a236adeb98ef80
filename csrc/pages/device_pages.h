// What stands behind a device's addresses: PyTorch's allocator asks for physical memory here, and a
// page may move to the host or to a file while its address stays.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/bytes.h"
#include "pages/account.h"
#include "pages/cuda_driver.h"
#include "pages/lane_chunks.h"
#include "pages/pinned_pool.h"
#include "pages/spill_file.h"

namespace tide::pages {

enum class DeviceTier : uint8_t {
  kDevice,
  kHostMapped,  // host memory that the device reads at the same address, over the bus
  kHostCopy,    // pinned host memory; the address is empty until the page returns
  kFile,        // as kHostCopy, in the spill file
  kDropped,     // nowhere: nobody wants what was there, and the page returns filled with zeros
  kLane,        // a chunk of the lane's scratch, or an empty address until the next iteration
};

/// One page as the planner and the reports see it.
struct DevicePage {
  cuda::Handle token = 0;  // what the allocator knows it by
  int device = 0;
  Bytes size;
  cuda::DevicePointer address = 0;  // 0: not mapped
  DeviceTier tier = DeviceTier::kDevice;
  bool pinned = false;  // shared with another process: never moved
  bool coming = false;  // away, and device memory for its return is held
};

struct DeviceCounts {
  Bytes device;  // charged: pages in device memory and spares
  Bytes spare;   // of those, handles kept for the next request
  Bytes room;    // of those, held for pages that are away and will return
  Bytes host_mapped;
  Bytes host_copy;
  Bytes file;
  Bytes dropped;
  Bytes lane;           // pages on the lane's scratch or waiting for it: charged to the lane
  int64_t creates = 0;  // requests of the allocator
  int64_t reused = 0;   // of those, met from spares
  int64_t refused = 0;
  int64_t demoted = 0;
  int64_t promoted = 0;
  int64_t to_lane = 0;
  int64_t from_lane = 0;
  Bytes reserved() const {
    return device - spare - room + host_mapped + host_copy + file + dropped + lane;
  }
};

struct DevicePagesOptions {
  Bytes spare_max;           // per device; creating costs several times what mapping does
  bool host_mapping = true;  // use host memory that the device can map, where the driver offers it
  /// Asked when an account or the driver refuses the allocator: true when it is worth another try.
  /// Has a deadline of its own; called without a lock of ours.
  std::function<bool(int device, Bytes size)> need_memory;
};

/// Thread-safe. The first group has the driver's signatures and results and is called by PyTorch's
/// allocator with its own lock held: no lock of ours is held during a driver call (Note [Busy
/// pages]), and nothing waits without a bound. The second group moves pages: the caller guarantees
/// that the device is idle and stays so (boundary and synchronisation), and every failure leaves
/// the page as it was.
class DevicePages {
 public:
  /// `accounts[i]` is asked for device i. All borrowed, for ever.
  DevicePages(const cuda::Driver& driver, std::vector<Account*> accounts,
              DevicePagesOptions options);
  ~DevicePages();
  DevicePages(const DevicePages&) = delete;
  DevicePages& operator=(const DevicePages&) = delete;

  // For the allocator. Handles that are not ours (born before us, imported) go to the driver as
  // they are.
  cuda::Result Create(cuda::Handle* out, size_t size, const cuda::AllocationProperties* properties,
                      unsigned long long flags);
  cuda::Result Release(cuda::Handle token);
  cuda::Result Map(cuda::DevicePointer at, size_t size, size_t offset, cuda::Handle token,
                   unsigned long long flags);
  cuda::Result Unmap(cuda::DevicePointer at, size_t size);
  cuda::Result SetAccess(cuda::DevicePointer at, size_t size, const cuda::AccessDescriptor* access,
                         size_t count);
  cuda::Result Export(void* out, cuda::Handle token, int type, unsigned long long flags);

  // For the owner of the budget.
  /// Moves a mapped page out of device memory. `to` is a wish for kHostMapped: where the driver
  /// offers no such memory the answer is Unimplemented. Errors: of the driver, the spill file;
  /// FailedPrecondition for a page that is pinned, not mapped or away already.
  absl::Status Demote(cuda::Handle token, DeviceTier to);
  /// Brings a page back. Never asks others for memory: whether the page is worth that is its
  /// owner's affair. Errors: as Demote, and the account's.
  absl::Status Promote(cuda::Handle token);

  // For the owner of the lane; the device is idle here too.
  /// Where pages of a device that go to the lane get their chunks. Borrowed; before ToLane.
  void set_chunks(int device, LaneChunks* chunks) { chunks_[device] = chunks; }
  /// Puts a chunk of the lane behind the address of a page whose contents nobody needs, or private
  /// memory as MapLane does. Errors: of the driver; FailedPrecondition for a page that is pinned,
  /// not mapped or not on the device. Where no chunk is to be had either, the page is on the lane
  /// and its address empty: MapLane tries again.
  absl::Status ToLane(cuda::Handle token);
  /// Puts private memory with the same contents there: what is alive when the turn passes. Errors:
  /// the account's, of the driver; then the page is on the lane still.
  absl::Status FromLane(cuda::Handle token);
  /// Gives back chunks that are behind no page: pages with later numbers get theirs. The lane's
  /// contents are nobody's. What the driver refuses stays as it is, or its address is empty until
  /// MapLane.
  void TrimLane(int device);
  /// Empties the addresses of the device's pages on the lane, whose contents nobody needs, and
  /// gives the chunks back. Errors: of the driver; then some of them are mapped still.
  absl::Status DropLane(int device);
  /// The opposite: every page of the lane has a chunk, or private memory where a chunk is another
  /// member's who does not answer. Errors: ResourceExhausted, of the driver; the rest is empty.
  absl::Status MapLane(int device);
  /// What the lane and the device have to have free for that, if nobody else has chunks.
  Bytes Unmapped(int device) const;

  /// device_return.cc: holds device memory for a page that is away, so that its return cannot fail
  /// for want of it. Idempotent. Errors: as Promote.
  absl::Status HoldRoom(cuda::Handle token);
  /// Gives that back; the page stays away.
  void LetRoomGo(cuda::Handle token);
  /// As Promote of a page that room is held for, while kernels run on other pages: copies on a
  /// stream of its own. On an error the room stays held.
  absl::Status PromoteBeside(cuda::Handle token);
  /// Gives spare handles back until `keep` are left.
  void TrimSpares(int device, Bytes keep);
  /// For kFile; borrowed. Without one, such a demotion is refused.
  void set_spill(SpillFile* spill) { spill_ = spill; }
  /// Where pages of kHostCopy wait.
  PinnedPool& pinned() { return pinned_; }
  /// Whether a page could be demoted to kHostMapped: tried once, by really creating one.
  bool host_mapping();

  std::vector<DevicePage> Snapshot(int device) const;
  DeviceCounts counts(int device) const;
  /// Errors: Internal naming the first count that its pages contradict.
  absl::Status Validate() const;

 private:
  struct Page {
    DevicePage view;
    cuda::AllocationProperties properties;
    cuda::Handle real = 0;  // of device memory or of mapped host memory; 0 when neither
    cuda::Handle room = 0;  // device memory held for its return
    std::vector<cuda::AccessDescriptor> access;
    char* copy = nullptr;          // kHostCopy
    std::vector<SpillSlot> slots;  // kFile
    Chunk chunk;                   // kLane
    bool busy = false;             // somebody calls the driver about it
  };
  struct Spare {
    cuda::AllocationProperties properties;
    Bytes size;
    cuda::Handle real;
  };
  /// What a clean-up could not give back: tried again at the next move.
  struct Leftover {
    enum Kind { kMapping, kAddress, kHandle } kind;
    uint64_t value;  // address or handle
    size_t size;
  };
  using Pages = std::unordered_map<cuda::Handle, Page>;

  // device_pages.cc
  const cuda::Calls& calls() const { return driver_.calls(); }
  Page* Find(cuda::Handle token) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::vector<Page*> ClaimRange(cuda::DevicePointer at, size_t size);
  void Unclaim(const std::vector<Page*>& pages);
  enum class Asking { kNobody, kOthers, kSurvivor };
  /// Device memory, charged: a spare one or a new one. A survivor of an iteration gets it whatever
  /// the job's limit says.
  cuda::Result Obtain(const cuda::AllocationProperties& properties, Bytes size, Asking asking,
                      cuda::Handle* real, bool* reused);
  bool TakeSpare(const cuda::AllocationProperties& properties, Bytes size, cuda::Handle* real);
  bool KeepSpare(const cuda::AllocationProperties& properties, Bytes size, cuda::Handle real);
  cuda::Result GiveBack(const cuda::AllocationProperties& properties, Bytes size,
                        cuda::Handle real);
  cuda::Result MapPage(Page& page, cuda::Handle real);
  cuda::Result UnmapPages(const std::vector<Page*>& pages);
  Bytes& TierBytes(const Page& page) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Forget(Page& page) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // device_lane.cc
  absl::StatusOr<Page*> ClaimForLane(cuda::Handle token, DeviceTier tier);
  void EnterLane(Page& page, const Chunk& chunk);
  void LeaveLane(Page& page, cuda::Handle real);
  absl::Status MapOnLane(Page& page);
  std::vector<Page*> LanePages(int device, bool mapped);

  // device_moves.cc
  absl::StatusOr<Page*> ClaimToMove(cuda::Handle token, bool away);
  absl::Status MoveToCopy(Page& page, DeviceTier to);
  /// `stream`: null for one that waits for everything else on the device.
  absl::Status MoveFromCopy(Page& page, cuda::Stream stream = nullptr)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(move_mu_);
  absl::Status FillWithZeros(const Page& page) ABSL_EXCLUSIVE_LOCKS_REQUIRED(move_mu_);
  absl::Status CopyIn(cuda::DevicePointer to, const char* from, Bytes size, cuda::Stream stream);
  /// Puts other physical memory with the same contents behind the page's address.
  absl::Status Replace(Page& page, cuda::Handle real);
  absl::Status CopyThroughScratch(const Page& page, cuda::Handle real);
  absl::Status WriteToSpill(Page& page);
  absl::Status ReadFromSpill(const Page& page, cuda::Stream stream);
  void FreeSlots(Page& page);
  cuda::Handle TakeRoom(Page& page);
  void LetRoomGoOf(Page& page);
  void PutRoom(Page& page, cuda::Handle room);
  absl::StatusOr<cuda::Stream> CopyStream(int device) ABSL_EXCLUSIVE_LOCKS_REQUIRED(move_mu_);
  void DropCopy(Page& page);
  void Drop(const Leftover& leftover);
  void RetryLeftovers();
  void SetTier(Page& page, DeviceTier tier, cuda::Handle real);
  cuda::AllocationProperties HostProperties() const;

  // constant after construction
  const cuda::Driver& driver_;
  const std::vector<Account*> accounts_;
  const DevicePagesOptions options_;
  SpillFile* spill_ = nullptr;
  PinnedPool pinned_;
  std::vector<LaneChunks*> chunks_;

  mutable absl::Mutex mu_;
  absl::CondVar not_busy_;
  Pages pages_ ABSL_GUARDED_BY(mu_);
  std::map<cuda::DevicePointer, Page*> by_address_ ABSL_GUARDED_BY(mu_);
  std::vector<std::vector<Spare>> spares_ ABSL_GUARDED_BY(mu_);
  std::vector<DeviceCounts> counts_ ABSL_GUARDED_BY(mu_);
  cuda::Handle next_token_ ABSL_GUARDED_BY(mu_);
  std::vector<Leftover> leftovers_ ABSL_GUARDED_BY(mu_);
  int host_mapping_ ABSL_GUARDED_BY(mu_) = -1;  // not tried yet, no, yes

  absl::Mutex move_mu_;  // one move at a time; taken before the others
  std::map<int, cuda::Stream> copy_streams_ ABSL_GUARDED_BY(move_mu_);  // of each device
  absl::Mutex spill_mu_;  // around the spill file's slots; no other lock is taken under it
};

}  // namespace tide::pages

// Blocks for CPU tensors on pages: a private heap, a lane heap, and the boundary between
// iterations.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "arena/heap.h"
#include "arena/lifetimes.h"
#include "base/bytes.h"
#include "pages/account.h"
#include "pages/backend.h"
#include "pages/page_table.h"
#include "pages/spill_file.h"

namespace tide::arena {

struct ArenaOptions {
  Bytes address_space = GiB(256);  // of each heap
  int64_t learn_from = 2;
  int learn_iterations = 2;
  bool skip_privatise = false;  // control experiment: corrupts survivors on purpose
};

/// What happened since the process started; every field grows or is a current size.
/// docs/reference/stats.md.
struct ArenaStats {
  int64_t allocations = 0;
  int64_t lane_allocations = 0;
  int64_t foreign_thread_allocations = 0;
  int64_t privatised_blocks = 0;
  Bytes privatised_bytes;
  int64_t demoted_pages = 0;
  int64_t promoted_pages = 0;
  Bytes live_bytes;              // private heap, blocks
  Bytes committed_bytes;         // private pages paid for, privatised blocks included
  Bytes cached_bytes;            // of those, with no live block
  Bytes demoted_bytes;           // pages in the file tier
  Bytes pinned_bytes;            // blocks that never move
  Bytes lane_peak_bytes;         // highest use of the lane by this process
  Bytes persistent_bytes;        // blocks alive at the last boundary
  Bytes private_scratch_bytes;   // pages an iteration used beyond what was alive at its end
  Bytes largest_operator_bytes;  // most that one operator of a recorded iteration used
};

struct MoveReport {
  PageCount moved;
  PageCount short_by;
  absl::Status status;  // of the first page that failed
  std::string reason;   // of the plan
};

/// Thread-safe. Never frees itself: storages keep pointers to it past shutdown. Contract of
/// Allocate and Free is c10's: 4 KiB aligned, any thread, no GIL.
class Arena {
 public:
  /// Asks others for memory, without any lock held; may wait. `last_resort`: nothing else is left
  /// to try. True means that trying again is worth it.
  using NeedMemory = std::function<bool(Bytes bytes, bool last_resort)>;

  /// `backend`, the accounts and what `need` refers to are borrowed for ever. `account` pays for
  /// private pages (OutOfRange: over the job's own limit; ResourceExhausted: the device is full),
  /// `lane_account` for pages of the lane's scratch.
  static absl::StatusOr<Arena*> Create(const ArenaOptions& options, pages::Backend& backend,
                                       pages::Account& account, pages::Account& lane_account,
                                       NeedMemory need);

  /// Errors: ResourceExhausted with the reasons of all who were asked.
  absl::StatusOr<void*> Allocate(size_t size);
  bool Owns(const void* pointer) const {
    const char* at = static_cast<const char*>(pointer);
    return (at >= private_base_ && at < private_base_ + options_.address_space.size()) ||
           (at >= lane_base_ && at < lane_base_ + options_.address_space.size());
  }
  void Free(void* pointer);
  /// A small allocation went elsewhere: keeps the sequence numbers of the stepping thread true.
  void CountSmall() {
    if (InIteration()) ++sequence_;
  }
  /// The running operator is about to use [pointer, pointer + size); called while recording. What
  /// of it is in the file tier alone is read in at once, faster than one page fault after another.
  void Touch(const void* pointer, size_t size);
  void NextOperator() {
    tick_.fetch_add(1, std::memory_order_relaxed);
    now_.fetch_add(1, std::memory_order_relaxed);
  }
  bool recording() const { return recording_.load(std::memory_order_relaxed); }
  void set_recording(bool on);
  int32_t tick() const { return tick_.load(std::memory_order_relaxed); }
  /// Operators seen so far, over all iterations.
  int64_t now() const { return now_.load(std::memory_order_relaxed); }
  /// Demoted pages that are in memory, as far as operators were seen to touch them.
  PageCount streamed() const { return PageCount(streamed_.load(std::memory_order_relaxed)); }

  /// Ends the iteration on the stepping thread: survivors leave the lane. Errors: no memory for a
  /// survivor; the rest is still in the lane, so the turn must not pass; may be called again.
  absl::Status EndIteration();
  /// Begins the next on the calling thread, which becomes the stepping thread. `use_lane`: this
  /// process holds the turn of an attached lane.
  void BeginIteration(int32_t phase, bool use_lane);

  /// Lane pages: `fd` is borrowed until the next call. Only between EndIteration and
  /// BeginIteration.
  absl::Status AttachLane(int fd);
  absl::Status DetachLane();
  bool lane_attached() const;

  /// The spill file; opened by the owner on first need. Borrowed for ever.
  void SetSpill(pages::SpillFile* spill);

  /// Moves pages at a quiet point on the stepping thread. Each returns what it did; nothing is lost
  /// on errors.
  PageCount Trim(PageCount keep);
  MoveReport Demote(PageCount count);
  MoveReport Promote(PageCount count);

  /// A file-tier page, for streaming.
  struct StreamPage {
    PageIndex page;
    SpillSlot slot;
    char* at;
    pages::Visit visit;
  };
  std::vector<StreamPage> FilePages();
  /// Their visits in the order in which they begin.
  std::vector<StreamPage> StreamVisits();
  /// Window that they need: bytes of them that operators use at one time.
  Bytes StreamingDepth();
  /// Says that the page is read ahead for an operator at `recent`; false when it is not what
  /// FilePages said any more, or in memory already.
  bool NoteReadAhead(const StreamPage& page, int64_t recent);
  /// Says that the page was found in memory though no operator was seen to touch it.
  void NoteFound(const StreamPage& page);
  /// Pages to drop, those that are needed last first; they count as dropped.
  std::vector<StreamPage> TakeFarthest(int count, const pages::PageTable::DropRule& rule);

  ArenaStats Stats();
  absl::Status Validate();

  /// pthread_atfork brackets. In the child every later call passes through.
  void BeforeFork();
  void AfterForkInParent();
  void AfterForkInChild();
  bool passes_through() const { return pass_through_.load(std::memory_order_relaxed); }

 private:
  struct Block {
    Bytes size;
    Signature signature;
    bool lane = false;
    bool predicted = false;   // ephemeral
    bool privatised = false;  // in the lane's address range, on private memory
    bool pinned = false;      // allocated by a thread other than the stepping or the main one
    bool counted = false;     // its survival has been learnt
  };
  struct ForkCopy {
    int64_t offset;
    Bytes size;
    char* scratch;
  };
  using Blocks = absl::flat_hash_map<int64_t, Block>;

  Arena(const ArenaOptions& options, pages::Backend& backend, pages::Account& account,
        pages::Account& lane_account, NeedMemory need, char* private_base, char* lane_base);

  bool InIteration() const {
    return in_iteration_.load(std::memory_order_relaxed) &&
           pthread_equal(pthread_self(), stepping_thread_.load(std::memory_order_relaxed));
  }
  absl::StatusOr<void*> TryAllocate(Bytes size, const Signature& signature, bool pinned,
                                    bool may_spill) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void PublishStreamed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    streamed_.store(table_.counts().streamed.value(), std::memory_order_relaxed);
  }
  StreamPage StreamPageOf(PageIndex page, pages::Visit visit = {}) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  /// Pages with live blocks in either tier.
  PageCount Occupied() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void* TryLane(Bytes size, const Signature& signature) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Privatise(int64_t offset, Block& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status PrivatiseAll() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FreeLaneBlock(int64_t offset, Block& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  /// Without `keep_lane_blocks` blocks in lane pages become zeroes: for a forked child.
  absl::Status RemapLane(int fd, bool keep_lane_blocks = true) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // constant after construction
  const ArenaOptions options_;
  pages::Backend& backend_;
  pages::Account& account_;
  pages::Account& lane_account_;
  const NeedMemory need_;
  char* const private_base_;
  char* const lane_base_;
  const pthread_t main_thread_;

  // self-synchronised; all relaxed: each is a single hint, none publishes other data
  std::atomic<bool> pass_through_{false};
  std::atomic<bool> in_iteration_{false};
  std::atomic<pthread_t> stepping_thread_;
  std::atomic<bool> recording_{false};
  std::atomic<int32_t> tick_{0};
  std::atomic<int64_t> now_{0};
  std::atomic<int64_t> streamed_{0};  // copy of the table's count

  // written by the stepping thread alone
  int32_t sequence_ = 0;
  int64_t iteration_ = -1;

  mutable absl::Mutex mu_;
  Heap private_heap_ ABSL_GUARDED_BY(mu_);
  Heap lane_heap_ ABSL_GUARDED_BY(mu_);
  pages::PageTable table_ ABSL_GUARDED_BY(mu_);
  Blocks private_blocks_ ABSL_GUARDED_BY(mu_);
  Blocks lane_blocks_ ABSL_GUARDED_BY(mu_);
  Lifetimes lifetimes_ ABSL_GUARDED_BY(mu_);
  int lane_fd_ ABSL_GUARDED_BY(mu_) = -1;
  bool use_lane_ ABSL_GUARDED_BY(mu_) = false;
  PageCount lane_paid_ ABSL_GUARDED_BY(mu_);  // lane pages this process has had paid for
  Bytes privatised_live_ ABSL_GUARDED_BY(mu_);
  PageCount occupied_peak_ ABSL_GUARDED_BY(mu_);  // most pages with live blocks in this iteration
  std::vector<ForkCopy> fork_copies_
      ABSL_GUARDED_BY(mu_);  // of lane blocks, from before a fork to after it
  ArenaStats stats_ ABSL_GUARDED_BY(mu_);
};

}  // namespace tide::arena

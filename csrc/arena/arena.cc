#include "arena/arena.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace tide::arena {

using pages::PageTable;

absl::StatusOr<Arena*> Arena::Create(const ArenaOptions& options, pages::Backend& backend,
                                     pages::Account& account, pages::Account& lane_account,
                                     NeedMemory need) {
  TIDE_ASSIGN_OR_RETURN(char* private_base, backend.Reserve(options.address_space));
  auto lane_base = backend.Reserve(options.address_space);
  if (!lane_base.ok()) {
    backend.Unreserve(private_base, options.address_space);
    return lane_base.status();
  }
  return new Arena(options, backend, account, lane_account, std::move(need), private_base,
                   *lane_base);
}

Arena::Arena(const ArenaOptions& options, pages::Backend& backend, pages::Account& account,
             pages::Account& lane_account, NeedMemory need, char* private_base, char* lane_base)
    : options_(options),
      backend_(backend),
      account_(account),
      lane_account_(lane_account),
      need_(std::move(need)),
      private_base_(private_base),
      lane_base_(lane_base),
      main_thread_(pthread_self()),
      stepping_thread_(pthread_self()),
      private_heap_(options.address_space),
      lane_heap_(options.address_space),
      table_(backend, account, private_base, options.address_space),
      lifetimes_(options.learn_from, options.learn_iterations) {}

absl::StatusOr<void*> Arena::Allocate(size_t size) {
  const Bytes rounded = RoundToGrain(Bytes(static_cast<int64_t>(size)));
  Signature signature;
  const bool stepping = InIteration();
  const pthread_t self = pthread_self();
  const bool pinned = !pthread_equal(self, stepping_thread_.load(std::memory_order_relaxed)) &&
                      !pthread_equal(self, main_thread_);
  absl::StatusOr<void*> result = nullptr;
  {
    absl::MutexLock lock(&mu_);
    if (stepping) signature = lifetimes_.Name(rounded, sequence_++);
    result = TryAllocate(rounded, signature, pinned, /*may_spill=*/false);
  }
  // The device is full: those who wait for their turn can give memory back at once. Then the file
  // tier (nothing has to move, the block is born there); then others again, with patience.
  if (absl::IsResourceExhausted(result.status()) && need_ &&
      need_(PagesFor(rounded).bytes(), false)) {
    absl::MutexLock lock(&mu_);
    result = TryAllocate(rounded, signature, pinned, /*may_spill=*/false);
  }
  if (!result.ok()) {
    absl::MutexLock lock(&mu_);
    result = TryAllocate(rounded, signature, pinned, /*may_spill=*/!pinned);
  }
  if (absl::IsResourceExhausted(result.status()) && need_ &&
      need_(PagesFor(rounded).bytes(), true)) {
    absl::MutexLock lock(&mu_);
    result = TryAllocate(rounded, signature, pinned, /*may_spill=*/!pinned);
  }
  return result;
}

absl::StatusOr<void*> Arena::TryAllocate(Bytes size, const Signature& signature, bool pinned,
                                         bool may_spill) {
  if (void* lane = TryLane(size, signature); lane != nullptr) return lane;
  const auto offset = private_heap_.Allocate(size);
  if (!offset) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no range of ", FormatBytes(size), " is left in the ",
                     FormatBytes(options_.address_space), " of address space"));
  }
  absl::Status placed = table_.Occupy(*offset, size, pinned, may_spill);
  if (!placed.ok()) {
    private_heap_.Free(*offset, size);
    return placed;
  }
  Block block;
  block.size = size;
  block.signature = signature;
  block.pinned = pinned;
  private_blocks_[offset->value()] = block;
  PublishStreamed();
  if (recording()) table_.CountOperator(size, now());
  ++stats_.allocations;
  stats_.foreign_thread_allocations += pinned;
  if (pinned) stats_.pinned_bytes += size;
  occupied_peak_ = std::max(occupied_peak_, Occupied());
  return private_base_ + offset->value();
}

PageCount Arena::Occupied() const {
  const pages::PageCounts counts = table_.counts();
  return counts.committed - counts.cached + counts.file;
}

void* Arena::TryLane(Bytes size, const Signature& signature) {
  if (!use_lane_ || lane_fd_ < 0 || !lifetimes_.PredictEphemeral(signature)) return nullptr;
  const auto offset = lane_heap_.Allocate(size);
  if (!offset) return nullptr;
  const PageCount needed = PagesFor(*offset + size);
  if (needed > lane_paid_) {
    if (!lane_account_.Reserve((needed - lane_paid_).bytes()).ok()) {
      lane_heap_.Free(*offset, size);
      return nullptr;
    }
    lane_paid_ = needed;
  }
  Block block;
  block.size = size;
  block.signature = signature;
  block.lane = true;
  block.predicted = true;
  lane_blocks_[offset->value()] = block;
  ++stats_.allocations;
  ++stats_.lane_allocations;
  stats_.lane_peak_bytes = std::max(stats_.lane_peak_bytes, *offset + size);
  return lane_base_ + offset->value();
}

void Arena::Free(void* pointer) {
  if (passes_through())
    return;  // a forked child: the memory is the parent's copy and goes with the process
  char* const at = static_cast<char*>(pointer);
  absl::MutexLock lock(&mu_);
  const bool lane = at >= lane_base_ && at < lane_base_ + options_.address_space.size();
  Blocks& blocks = lane ? lane_blocks_ : private_blocks_;
  const int64_t offset = at - (lane ? lane_base_ : private_base_);
  auto found = blocks.find(offset);
  if (found == blocks.end())
    return;  // not ours to free: a pointer into a block, ignored rather than fatal
  Block& block = found->second;
  lifetimes_.Freed(block.signature, iteration_);
  if (lane) {
    FreeLaneBlock(offset, block);
  } else {
    table_.Vacate(Bytes(offset), block.size, block.pinned);
    private_heap_.Free(Bytes(offset), block.size);
    PublishStreamed();
    if (block.pinned) stats_.pinned_bytes -= block.size;
  }
  blocks.erase(found);
}

void Arena::FreeLaneBlock(int64_t offset, Block& block) {
  if (block.privatised) {
    // Back to shared pages. If that fails the range stays out of use: private memory must not be
    // taken for lane.
    const absl::Status mapped =
        lane_fd_ >= 0 ? backend_.MapLane(lane_base_ + offset, block.size, lane_fd_, Bytes(offset))
                      : backend_.MapPrivate(lane_base_ + offset, block.size);
    privatised_live_ -= block.size;
    account_.Release(block.size);
    if (!mapped.ok()) return;
  }
  lane_heap_.Free(Bytes(offset), block.size);
}

void Arena::Touch(const void* pointer, size_t size) {
  const char* at = static_cast<const char*>(pointer);
  if (size == 0 || at < private_base_ || at >= private_base_ + options_.address_space.size())
    return;
  const Bytes offset(at - private_base_);
  std::vector<PageIndex> missing;
  {
    absl::MutexLock lock(&mu_);
    if (offset + Bytes(static_cast<int64_t>(size)) > private_heap_.top()) return;
    missing = table_.Touch(offset, Bytes(static_cast<int64_t>(size)), tick(), now());
    PublishStreamed();
  }
  // Without the lock: a hint about mappings that stay valid whatever becomes of the pages.
  for (const PageIndex page : missing)
    backend_.ReadAhead(private_base_ + (page.value() << kPageShift), kPage);
}

void Arena::set_recording(bool on) {
  absl::MutexLock lock(&mu_);
  if (recording() && !on) table_.FinishRecording();
  recording_.store(on, std::memory_order_relaxed);
}

absl::Status Arena::Privatise(int64_t offset, Block& block) {
  char* const at = lane_base_ + offset;
  TIDE_ASSIGN_OR_RETURN(char* scratch, backend_.MapScratch(block.size));
  std::memcpy(scratch, at, block.size.size());
  if (absl::Status moved = backend_.Publish(scratch, at, block.size); !moved.ok()) {
    backend_.DropScratch(scratch, block.size);
    return moved;
  }
  account_.Force(block.size);
  privatised_live_ += block.size;
  block.privatised = true;
  ++stats_.privatised_blocks;
  stats_.privatised_bytes += block.size;
  return absl::OkStatus();
}

absl::Status Arena::PrivatiseAll() {
  for (auto& [offset, block] : lane_blocks_) {
    if (block.privatised) continue;
    if (!block.counted) lifetimes_.Survived(block.signature);
    block.counted = true;
    if (options_.skip_privatise) continue;
    TIDE_RETURN_IF_ERROR(Privatise(offset, block));
  }
  return absl::OkStatus();
}

absl::Status Arena::EndIteration() {
  in_iteration_.store(false, std::memory_order_relaxed);
  absl::MutexLock lock(&mu_);
  use_lane_ = false;
  const absl::Status status = PrivatiseAll();
  for (auto& [offset, block] : private_blocks_) {
    if (block.counted) continue;
    if (block.signature.ordinal >= 0) lifetimes_.Survived(block.signature);
    block.counted = true;
  }
  const PageCount alive = Occupied();
  stats_.persistent_bytes = private_heap_.used() + privatised_live_;
  if (iteration_ >= 0)
    stats_.private_scratch_bytes = (std::max(occupied_peak_, alive) - alive).bytes();
  return status;
}

void Arena::BeginIteration(int32_t phase, bool use_lane) {
  stepping_thread_.store(pthread_self(), std::memory_order_relaxed);
  sequence_ = 0;
  tick_.store(0, std::memory_order_relaxed);
  {
    absl::MutexLock lock(&mu_);
    ++iteration_;
    lifetimes_.BeginIteration(iteration_, phase);
    use_lane_ = use_lane;
    occupied_peak_ = Occupied();
  }
  in_iteration_.store(true, std::memory_order_relaxed);
}

absl::Status Arena::RemapLane(int fd, bool keep_lane_blocks) {
  // Everything between the privatised blocks; nothing else lives here at a boundary.
  std::vector<std::pair<int64_t, int64_t>> kept;
  for (const auto& [offset, block] : lane_blocks_) {
    if (!block.privatised && !keep_lane_blocks) continue;
    if (!block.privatised && !options_.skip_privatise) {
      return absl::FailedPreconditionError("a block still lives in lane pages");
    }
    kept.push_back({offset, block.size.value()});
  }
  std::sort(kept.begin(), kept.end());
  kept.push_back({options_.address_space.value(), 0});
  int64_t at = 0;
  for (const auto& [offset, size] : kept) {
    const Bytes gap(offset - at);
    if (gap > Bytes(0)) {
      TIDE_RETURN_IF_ERROR(fd >= 0 ? backend_.MapLane(lane_base_ + at, gap, fd, Bytes(at))
                                   : backend_.MapPrivate(lane_base_ + at, gap));
    }
    at = offset + size;
  }
  return absl::OkStatus();
}

absl::Status Arena::AttachLane(int fd) {
  absl::MutexLock lock(&mu_);
  TIDE_RETURN_IF_ERROR(RemapLane(fd));
  lane_fd_ = fd;
  lane_paid_ = PageCount(0);
  return absl::OkStatus();
}

absl::Status Arena::DetachLane() {
  absl::MutexLock lock(&mu_);
  use_lane_ = false;
  TIDE_RETURN_IF_ERROR(RemapLane(-1));
  lane_fd_ = -1;
  lane_paid_ = PageCount(0);
  return absl::OkStatus();
}

bool Arena::lane_attached() const {
  absl::MutexLock lock(&mu_);
  return lane_fd_ >= 0;
}

void Arena::SetSpill(pages::SpillFile* spill) {
  absl::MutexLock lock(&mu_);
  table_.set_spill(spill);
}

PageCount Arena::Trim(PageCount keep) {
  absl::MutexLock lock(&mu_);
  return table_.Trim(keep);
}

MoveReport Arena::Demote(PageCount count) {
  pages::DemotionPlan plan;
  {
    absl::MutexLock lock(&mu_);
    plan = pages::PlanDemotion(table_.DemotionCandidates(), count, table_.FilePages());
  }
  MoveReport report;
  report.short_by = plan.short_by;
  report.reason = plan.reason;
  for (PageIndex page : plan.pages) {
    absl::MutexLock lock(&mu_);  // a page at a time, so that other threads allocate in between
    report.status = table_.Demote(page);
    if (!report.status.ok() && !absl::IsFailedPrecondition(report.status)) break;
    if (!report.status.ok()) continue;  // a block was freed or pinned since the plan
    report.moved = report.moved + PageCount(1);
    ++stats_.demoted_pages;
  }
  if (absl::IsFailedPrecondition(report.status)) report.status = absl::OkStatus();
  report.short_by = count - report.moved;
  return report;
}

MoveReport Arena::Promote(PageCount count) {
  MoveReport report;
  std::vector<pages::PageUse> order;
  {
    absl::MutexLock lock(&mu_);
    order = table_.FilePages();
  }
  // Those that streaming costs most come first; resuming wants the order of the next iteration.
  if (static_cast<int64_t>(order.size()) > count.value()) {
    std::stable_sort(order.begin(), order.end(),
                     [](const auto& a, const auto& b) { return a.bursts > b.bursts; });
  }
  for (const pages::PageUse& use : order) {
    if (report.moved >= count) break;
    absl::MutexLock lock(&mu_);
    if (table_.page(use.page).state != pages::PageState::kFile) continue;
    if (table_.page(use.page).pinned > 0) continue;  // another thread may be writing it
    report.status = table_.Promote(use.page);
    if (!report.status.ok()) break;
    report.moved = report.moved + PageCount(1);
    ++stats_.promoted_pages;
  }
  report.short_by = count - report.moved;
  return report;
}

std::vector<Arena::StreamPage> Arena::FilePages() {
  absl::MutexLock lock(&mu_);
  std::vector<StreamPage> result;
  for (const pages::PageUse& use : table_.FilePages()) result.push_back(StreamPageOf(use.page));
  return result;
}

std::vector<Arena::StreamPage> Arena::StreamVisits() {
  absl::MutexLock lock(&mu_);
  std::vector<StreamPage> result;
  for (const pages::PageUse& use : table_.FilePages()) {
    for (int i = 0; i < use.visits_known(); ++i)
      result.push_back(StreamPageOf(use.page, use.visits[i]));
  }
  std::stable_sort(result.begin(), result.end(), [](const StreamPage& a, const StreamPage& b) {
    return a.visit.first < b.visit.first;
  });
  return result;
}

Bytes Arena::StreamingDepth() {
  absl::MutexLock lock(&mu_);
  return pages::StreamingDepth(table_.FilePages()).bytes();
}

Arena::StreamPage Arena::StreamPageOf(PageIndex index, pages::Visit visit) const {
  return {index, table_.page(index).slot, table_.Address(index), visit};
}

bool Arena::NoteReadAhead(const StreamPage& page, int64_t recent) {
  absl::MutexLock lock(&mu_);
  const pages::Page& current = table_.page(page.page);
  if (current.state != pages::PageState::kFile || current.slot != page.slot || current.in_memory)
    return false;
  table_.NoteInMemory(page.page, recent);
  PublishStreamed();
  return true;
}

void Arena::NoteFound(const StreamPage& page) { NoteReadAhead(page, 0); }

std::vector<Arena::StreamPage> Arena::TakeFarthest(int count,
                                                   const pages::PageTable::DropRule& rule) {
  absl::MutexLock lock(&mu_);
  std::vector<StreamPage> result;
  for (PageIndex page : table_.TakeFarthest(count, rule)) result.push_back(StreamPageOf(page));
  PublishStreamed();
  return result;
}

ArenaStats Arena::Stats() {
  absl::MutexLock lock(&mu_);
  ArenaStats stats = stats_;
  const pages::PageCounts counts = table_.counts();
  stats.live_bytes = private_heap_.used();
  stats.committed_bytes = counts.committed.bytes() + privatised_live_;
  stats.cached_bytes = counts.cached.bytes();
  stats.demoted_bytes = counts.file.bytes();
  stats.largest_operator_bytes = table_.largest_operator();
  return stats;
}

absl::Status Arena::Validate() {
  absl::MutexLock lock(&mu_);
  TIDE_RETURN_IF_ERROR(private_heap_.Validate());
  TIDE_RETURN_IF_ERROR(lane_heap_.Validate());
  return table_.Validate();
}

// The lock is held from BeforeFork to the end of fork in the parent and handed over in the child,
// so that the child never sees a half-changed heap.
void Arena::BeforeFork() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  mu_.Lock();
  if (passes_through()) return;
  // Lane pages do not reach the child (and must not: its writes would be the parent's). It gets
  // copies; the parent's blocks stay where they are, since its other threads may be writing them. A
  // block that cannot be copied reads as zeroes in the child.
  for (const auto& [offset, block] : lane_blocks_) {
    if (block.privatised) continue;
    auto copy = backend_.MapScratch(block.size);
    if (!copy.ok()) continue;
    std::memcpy(*copy, lane_base_ + offset, block.size.size());
    fork_copies_.push_back({offset, block.size, *copy});
  }
  if (table_.spill() != nullptr) table_.spill()->BeforeFork();
}

void Arena::AfterForkInParent() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (table_.spill() != nullptr && !passes_through()) table_.spill()->AfterForkInParent();
  for (const ForkCopy& copy : fork_copies_) backend_.DropScratch(copy.scratch, copy.size);
  fork_copies_.clear();
  mu_.Unlock();
}

void Arena::AfterForkInChild() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (!passes_through()) {
    pass_through_.store(true, std::memory_order_relaxed);
    in_iteration_.store(false, std::memory_order_relaxed);
    recording_.store(false, std::memory_order_relaxed);
    if (lane_fd_ >= 0) {
      use_lane_ = false;
      RemapLane(-1, /*keep_lane_blocks=*/false).IgnoreError();
      lane_fd_ = -1;
    }
    for (const ForkCopy& copy : fork_copies_) {
      std::memcpy(lane_base_ + copy.offset, copy.scratch, copy.size.size());
      backend_.DropScratch(copy.scratch, copy.size);
    }
    fork_copies_.clear();
    if (table_.spill() != nullptr) {
      table_.spill()->AfterForkInChild();
      table_.AfterForkInChild();
    }
  }
  mu_.Unlock();
}

}  // namespace tide::arena

// Lays the file down once and maps it.
#include "elastic/group.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/status.h"

namespace tide::elastic {
namespace {

constexpr size_t kHeaderBytes = AlignArea(sizeof(GroupHeader));

absl::StatusOr<void*> MapFile(int fd, size_t offset, size_t bytes) {
  void* start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd,
                     static_cast<off_t>(offset));
  if (start == MAP_FAILED) return ErrnoStatus("map the memory file of the job");
  return start;
}

/// Makes all pages at once, which is cheaper than one by one when they are written.
void Populate(void* start, size_t bytes) {
  const auto first = reinterpret_cast<uintptr_t>(start) / 4096 * 4096;
  const size_t whole = (reinterpret_cast<uintptr_t>(start) - first + bytes + 4095) / 4096 * 4096;
  madvise(reinterpret_cast<void*>(first), whole, MADV_POPULATE_WRITE);  // or later, by faults
}

absl::Status GrowTo(int fd, size_t bytes) {
  struct stat found;
  if (fstat(fd, &found) != 0) return ErrnoStatus("look at the memory file of the job");
  if (static_cast<size_t>(found.st_size) >= bytes) return absl::OkStatus();
  if (ftruncate(fd, static_cast<off_t>(bytes)) != 0)
    return ErrnoStatus("grow the memory file of the job");
  return absl::OkStatus();
}

bool SameSizes(const Geometry& a, const Geometry& b) {
  return a.workers == b.workers && a.parameters == b.parameters && a.partials == b.partials &&
         a.flat_bytes == b.flat_bytes && a.context_bytes == b.context_bytes;
}

}  // namespace

absl::StatusOr<UniqueFd> Group::Create(Sizes sizes) {
  if (sizes.low < 1 || sizes.low > sizes.target || sizes.target > sizes.high ||
      sizes.high > kProcessesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("between ", sizes.low, " and ", sizes.high, " processes, ", sizes.target,
                     " at first; the order must be 1 <= low <= first <= high <= ", kProcessesMax));
  }
  UniqueFd fd(memfd_create("torchtide-elastic", MFD_CLOEXEC));
  if (!fd) return ErrnoStatus("make the memory file of the job");
  TIDE_RETURN_IF_ERROR(GrowTo(fd.get(), kHeaderBytes));
  TIDE_ASSIGN_OR_RETURN(void* start, MapFile(fd.get(), 0, kHeaderBytes));
  auto* header = static_cast<GroupHeader*>(start);  // zero pages are a valid empty header
  header->version = kGroupVersion;
  header->low = sizes.low;
  header->high = sizes.high;
  header->target = sizes.target;
  header->magic.store(kGroupMagic, std::memory_order_release);  // release: the header is complete
  munmap(start, kHeaderBytes);
  return fd;
}

absl::StatusOr<std::unique_ptr<Group>> Group::Attach(UniqueFd fd) {
  struct stat found;
  if (fstat(fd.get(), &found) != 0) return ErrnoStatus("look at the memory file of the job");
  if (static_cast<size_t>(found.st_size) < kHeaderBytes)
    return absl::FailedPreconditionError("the descriptor is not that of an elastic job");
  TIDE_ASSIGN_OR_RETURN(void* start, MapFile(fd.get(), 0, kHeaderBytes));
  std::unique_ptr<Group> group(new Group(std::move(fd), static_cast<GroupHeader*>(start)));
  // acquire: pairs with Create
  if (group->header().magic.load(std::memory_order_acquire) != kGroupMagic ||
      group->header().version != kGroupVersion) {
    return absl::FailedPreconditionError(
        "the descriptor is of another version's elastic job; use one torchtide for all processes");
  }
  return group;
}

Group::~Group() { munmap(header_, mapped_bytes_); }

bool Group::Sealed() const {
  // acquire: pairs with the release in TrySeal
  return SealingWord::State(header_->sealing.load(std::memory_order_acquire)) == Sealing::kSealed;
}

absl::Status Group::TrySeal(const Geometry& geometry, absl::string_view contract) {
  uint64_t found = header_->sealing.load();
  const bool open = SealingWord::State(found) == Sealing::kOpen;
  const bool left = SealingWord::State(found) == Sealing::kWriting &&
                    !ProcessRuns(SealingWord::Pid(found), SealingWord::StartTime(found));
  const uint64_t own = SealingWord::Make(Sealing::kWriting, OwnPid(), OwnStartTime());
  if (!(open || left) || !header_->sealing.compare_exchange_strong(found, own))
    return absl::OkStatus();
  header_->geometry = geometry;
  header_->contract_bytes = static_cast<uint32_t>(contract.size());
  std::memcpy(header_->contract, contract.data(), contract.size());
  TIDE_RETURN_IF_ERROR(GrowTo(fd_.get(), Offsets(geometry).state));
  // release: who sees it sealed sees the geometry
  header_->sealing.store(SealingWord::Make(Sealing::kSealed, 0, 0), std::memory_order_release);
  Announce();
  return absl::OkStatus();
}

absl::StatusOr<std::string> Group::Seal(const Geometry& geometry, absl::string_view contract,
                                        absl::Duration timeout) {
  if (contract.size() > kContractBytesMax)
    return absl::InvalidArgumentError("the contract of the job is too long");
  const int64_t end = MachineClock().MonotonicNanos() + absl::ToInt64Nanoseconds(timeout);
  for (;;) {
    const uint32_t seen = header_->news.load();
    TIDE_RETURN_IF_ERROR(TrySeal(geometry, contract));
    if (Sealed()) break;
    if (MachineClock().MonotonicNanos() > end)
      return absl::DeadlineExceededError("the first process of the job is held up as it begins");
    AwaitChange(header_->news, seen, absl::Milliseconds(50));
  }
  if (!SameSizes(header_->geometry, geometry)) {
    return absl::FailedPreconditionError(
        absl::StrCat("this process has ", geometry.parameters, " parameters of ",
                     geometry.flat_bytes, " bytes and ", geometry.workers,
                     " logical workers; the job has ", header_->geometry.parameters, ", ",
                     header_->geometry.flat_bytes, " and ", header_->geometry.workers));
  }
  TIDE_RETURN_IF_ERROR(MapAreas());
  return std::string(header_->contract, header_->contract_bytes);
}

absl::Status Group::MapAreas() {
  const size_t bytes = Offsets(header_->geometry).state;
  TIDE_ASSIGN_OR_RETURN(void* start, MapFile(fd_.get(), 0, bytes));
  madvise(start, bytes, MADV_DONTFORK);  // a loader's child must not look alive through it
  munmap(header_, mapped_bytes_);
  header_ = static_cast<GroupHeader*>(start);
  mapped_bytes_ = bytes;
  return absl::OkStatus();
}

absl::Status Group::Resize(uint32_t target) {
  const uint32_t low = header_->low.load(), high = header_->high.load();
  const bool sealed = Sealed();
  const uint32_t most = sealed ? std::min(high, header_->geometry.workers) : high;
  if (target < low || target > most) {
    return absl::InvalidArgumentError(
        absl::StrCat(target, " processes; this job runs on ", low, " to ", most,
                     sealed && most < high ? " (it has that many logical workers)" : ""));
  }
  if (header_->finished.load() != 0) return absl::FailedPreconditionError("the training is over");
  header_->target.store(target);
  Announce();
  return absl::OkStatus();
}

absl::Status Group::Bound(uint32_t low, uint32_t high) {
  const uint32_t lowest = std::max(low, header_->low.load());
  const uint32_t highest = std::min(high, header_->high.load());
  if (lowest > highest) {
    return absl::InvalidArgumentError(
        absl::StrCat("the script wants ", low, " to ", high, " processes, the launcher gives ",
                     header_->low.load(), " to ", header_->high.load()));
  }
  header_->low.store(lowest);
  header_->high.store(highest);
  header_->target.store(std::clamp(header_->target.load(), lowest, highest));
  Announce();
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> Group::Pause(bool wanted) {
  if (header_->finished.load() != 0) return absl::FailedPreconditionError("the training is over");
  uint32_t word = header_->pause.load();
  while (PauseWord::Wanted(word) != wanted) {
    const uint32_t number = PauseWord::Number(word) + (wanted ? 0 : 1);
    if (header_->pause.compare_exchange_weak(word, PauseWord::Make(number, wanted))) break;
  }
  Announce();
  return PauseWord::Number(header_->pause.load());
}

absl::StatusOr<uint64_t> Group::Limit(uint64_t bytes) {
  const uint64_t kib = bytes >> 10;
  if (kib > LimitWord::kKibMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("a limit of ", bytes, " bytes; 0 (none) to ", LimitWord::kKibMax << 10));
  }
  if (bytes != 0 && kib == 0) return absl::InvalidArgumentError("a limit is at least 1 KiB");
  if (header_->finished.load() != 0) return absl::FailedPreconditionError("the training is over");
  uint64_t before = header_->limit.load();
  uint64_t word = 0;
  do {
    word = LimitWord::Make(LimitWord::Revision(before) + 1, kib);
  } while (!header_->limit.compare_exchange_weak(before, word));
  Announce();
  return word;
}

std::byte* Group::context(uint64_t step, int worker) {
  const Geometry& g = header_->geometry;
  const size_t index = (step % 2) * g.workers + static_cast<size_t>(worker);
  return reinterpret_cast<std::byte*>(header_) + Offsets(g).contexts + index * g.context_bytes;
}

std::byte* Group::area(int slot) {
  const Offsets offsets(header_->geometry);
  return reinterpret_cast<std::byte*>(header_) + offsets.areas +
         static_cast<size_t>(slot) * offsets.area_bytes;
}

std::byte* Group::shards() {
  return reinterpret_cast<std::byte*>(header_) + Offsets(header_->geometry).shards;
}

std::byte* Group::used(int slot) {
  const Geometry& g = header_->geometry;
  return area(slot) + g.flat_bytes * g.partials;
}

absl::StatusOr<Group::StateMapping> Group::MapState(size_t bytes) {
  if (prepared_ && bytes <= prepared_bytes_) return std::move(prepared_);
  const size_t offset = Offsets(header_->geometry).state;
  TIDE_RETURN_IF_ERROR(GrowTo(fd_.get(), offset + bytes));
  TIDE_ASSIGN_OR_RETURN(void* start, MapFile(fd_.get(), offset, bytes));
  Populate(start, bytes);
  return StateMapping(static_cast<std::byte*>(start),
                      [bytes](std::byte* mapped) { munmap(mapped, bytes); });
}

void Group::Prepare(int slot, size_t buffers) {
  Populate(area(slot), header_->geometry.flat_bytes * buffers);
  const size_t state = header_->state_expected.load();
  if (state == 0) return;
  if (auto mapped = MapState(state); mapped.ok()) {
    prepared_ = *std::move(mapped);
    prepared_bytes_ = state;
  }
}

void Group::DropState() {
  const size_t offset = Offsets(header_->geometry).state;
  struct stat found;
  if (fstat(fd_.get(), &found) != 0 || static_cast<size_t>(found.st_size) <= offset) return;
  fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
            found.st_size - static_cast<off_t>(offset));
}

void Group::Announce() {
  header_->news.fetch_add(1);  // seq_cst: after whatever changed
  WakeAll(header_->news);
}

}  // namespace tide::elastic

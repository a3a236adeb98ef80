// Finds, creates and leaves generations of a lane's memfd. All changes of a generation happen under
// the device lock.
#include "lane/scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/atomics.h"
#include "base/log.h"
#include "base/status.h"
#include "lane/members.h"
#include "shm/slot_table.h"

namespace tide::lane {
namespace {

absl::Status EnlargeTo(int fd, Bytes size) {
  struct stat info;
  if (fstat(fd, &info) != 0) return ErrnoStatus("cannot look at the lane's scratch");
  if (info.st_size >= size.value()) return absl::OkStatus();
  if (ftruncate(fd, size.value()) == 0) return absl::OkStatus();
  return ErrnoStatus(absl::StrCat("cannot enlarge the lane's scratch to ", FormatBytes(size)));
}

absl::StatusOr<UniqueFd> CreateScratch(LaneId lane, Bytes size) {
  char name[32];
  snprintf(name, sizeof(name), "torchtide-lane-%d", lane.value());
  UniqueFd fd(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return ErrnoStatus("memfd_create for the lane's scratch");
  if (fchmod(fd.get(), 0600) != 0) return ErrnoStatus("chmod 600 of the lane's scratch");
  TIDE_RETURN_IF_ERROR(EnlargeTo(fd.get(), size));
  // Nobody may shrink it: a page that another process has mapped would become a SIGBUS.
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL) != 0) {
    return ErrnoStatus("sealing the lane's scratch");
  }
  return fd;
}

// Opens the scratch that `member` has published; NotFound when it has ended meanwhile.
absl::StatusOr<UniqueFd> OpenFrom(const shm::JobSlot& member) {
  const int pid = member.pid.load(kRelaxed);  // relaxed: published with the slot's state
  const int its_fd =
      member.lane_fd.load(kRelaxed);  // relaxed: changes under the device lock, which we hold
  char path[48];
  snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, its_fd);
  UniqueFd fd(open(path, O_RDWR | O_CLOEXEC));
  if (!fd && (errno == ENOENT || errno == ESRCH))
    return absl::NotFoundError("the member has ended");
  if (!fd) {
    return ErrnoStatus(absl::StrCat("cannot share scratch memory with process ", pid,
                                    " (it must be of the same user and dumpable)"));
  }
  const int seals =
      fcntl(fd.get(), F_GET_SEALS);  // another file may have the number of a process that ended
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) return absl::NotFoundError("the member has ended");
  return fd;
}

// The current generation's memfd from any live member; an empty descriptor when nobody has it.
absl::StatusOr<UniqueFd> FindScratch(const shm::DeviceTable& table, LaneId lane,
                                     uint64_t generation) {
  for (const shm::JobSlot& slot : table.slots) {
    // relaxed: written under the device lock, which we hold
    if (!IsMember(slot, lane) || slot.lane_fd.load(kRelaxed) < 0 ||
        slot.lane_generation.load(kRelaxed) != generation) {
      continue;
    }
    absl::StatusOr<UniqueFd> fd = OpenFrom(slot);
    if (fd.ok() || !absl::IsNotFound(fd.status())) return fd;
  }
  return UniqueFd();
}

}  // namespace

Scratch::Scratch(shm::DeviceFile& device, SlotId self, LaneId lane)
    : device_(&device), self_(self), lane_(lane), pid_(getpid()) {}

Scratch::Scratch(Scratch&& other) noexcept = default;

Scratch& Scratch::operator=(Scratch&& other) noexcept {
  if (this == &other) return *this;
  Detach();
  device_ = other.device_;
  self_ = other.self_;
  lane_ = other.lane_;
  pid_ = other.pid_;
  fd_ = std::move(other.fd_);
  generation_ = other.generation_;
  return *this;
}

Scratch::~Scratch() { Detach(); }

absl::StatusOr<Scratch> Scratch::Attach(shm::DeviceFile& device, SlotId self, LaneId lane,
                                        Bytes size) {
  if (!IsMember(device.slot(self), lane)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "slot ", self.value(), " must join lane ", lane.value(), " before it shares its scratch"));
  }
  Scratch scratch(device, self, lane);
  TIDE_ASSIGN_OR_RETURN(const shm::FileLock lock, device.Lock());
  std::atomic<uint64_t>& current = device.lane(lane).generation;
  uint64_t generation = current.load(kRelaxed);  // relaxed: changes under the device lock only
  TIDE_ASSIGN_OR_RETURN(UniqueFd fd, FindScratch(device.table(), lane, generation));
  if (fd) {
    TIDE_RETURN_IF_ERROR(EnlargeTo(fd.get(), size));
  } else {
    TIDE_ASSIGN_OR_RETURN(fd, CreateScratch(lane, size));
    current.store(++generation, std::memory_order_release);  // release: pairs with Stale
    device.lane(lane).scratch_bytes.store(
        0);  // seq_cst: part of the ledger's sum; the old pages are gone
  }
  scratch.Publish(std::move(fd), generation);
  return scratch;
}

// Under the device lock.
void Scratch::Publish(UniqueFd fd, uint64_t generation) {
  shm::JobSlot& slot = device_->slot(self_);
  // relaxed: read under the device lock
  slot.lane_fd.store(fd.get(), kRelaxed);
  slot.lane_generation.store(generation, kRelaxed);
  slot.retired_scratch_bytes.store(0, kRelaxed);
  fd_ = std::move(fd);
  generation_ = generation;
  const Bytes freed = shm::RecountLane(device_->table(), lane_);
  if (freed > Bytes(0)) shm::AnnounceFreed(device_->table(), freed);
}

void Scratch::Detach() {
  if (!fd_ || getpid() != pid_) return;
  const auto lock = device_->Lock();  // without it the next reaper or attacher recounts
  shm::JobSlot& slot = device_->slot(self_);
  // A newer attachment of this process may have published its own descriptor already.
  if (slot.lane_fd.load(kRelaxed) == fd_.get()) {
    slot.lane_fd.store(-1, kRelaxed);  // relaxed: read under the device lock
    slot.retired_scratch_bytes.store(0, kRelaxed);
    const Bytes freed = lock.ok() ? shm::RecountLane(device_->table(), lane_) : Bytes(0);
    if (freed > Bytes(0)) shm::AnnounceFreed(device_->table(), freed);
  }
  fd_.reset();
}

bool Scratch::Stale() const {
  // acquire: who sees the new generation can find the member that published it
  return device_->lane(lane_).generation.load(std::memory_order_acquire) != generation_;
}

absl::Status Scratch::Grow(Bytes size) {
  TIDE_ASSIGN_OR_RETURN(const shm::FileLock lock, device_->Lock());
  return EnlargeTo(fd_.get(), size);
}

absl::StatusOr<bool> Scratch::LeaveStuckHolder(Turn& turn, absl::Duration grace) {
  if (turn.lane() != lane_ || turn.HolderSilence() < grace) return false;
  TIDE_ASSIGN_OR_RETURN(const shm::FileLock lock, device_->Lock());
  uint64_t word = 0;
  const absl::Duration silence = turn.HolderSilence(&word);
  if (silence <= absl::ZeroDuration() || silence < grace || Stale())
    return false;  // another waiter was faster
  shm::LaneSlot& lane = device_->lane(lane_);
  struct stat info;
  if (fstat(fd_.get(), &info) != 0) return ErrnoStatus("cannot look at the lane's scratch");
  TIDE_ASSIGN_OR_RETURN(UniqueFd fresh, CreateScratch(lane_, Bytes(info.st_size)));
  const Bytes scratch(lane.scratch_bytes.load());  // seq_cst: part of the ledger's sum
  // Add first, then sum, as every reservation does; the recount in Publish derives the same number
  // from slots.
  lane.retired_bytes.fetch_add(scratch.value());
  const Bytes used = device_->Used(), capacity = device_->Capacity();
  if (capacity > Bytes(0) && used > capacity) {
    lane.retired_bytes.fetch_sub(scratch.value());
    return absl::ResourceExhaustedError(absl::StrCat(
        "slot ", shm::TurnWord::Holder(word), " has held the turn of lane ", lane_.value(), " for ",
        absl::FormatDuration(silence), " without a boundary; leaving it needs ",
        FormatBytes(scratch), ", but ", FormatBytes(used - scratch), " of ", FormatBytes(capacity),
        " are in use: continue or end that job"));
  }
  for (shm::JobSlot& slot : device_->table().slots) {
    // relaxed: under the device lock
    if (IsMember(slot, lane_) && slot.lane_generation.load(kRelaxed) == generation_) {
      slot.retired_scratch_bytes.store(scratch.value(), kRelaxed);
    }
  }
  // The generation moves before the turn does: who gets the turn must find that its pages are
  // stale. If the holder passes the turn on at this moment by itself, the exchange below fails; the
  // next holder may then still be on the old pages, alone, and attaches to the new ones at its next
  // turn.
  lane.generation.store(generation_ + 1, std::memory_order_release);  // release: pairs with Stale
  Publish(std::move(fresh),
          generation_ + 1);  // scratch_bytes stays: the new generation's charge in advance
  Log(LogLevel::kInfo,
      absl::StrCat("event=holder_left lane=", lane_.value(), " slot=", shm::TurnWord::Holder(word),
                   " silent_ms=", absl::ToInt64Milliseconds(silence), " generation=", generation_));
  return turn.PassOver(word);
}

}  // namespace tide::lane

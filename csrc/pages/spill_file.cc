#include "pages/spill_file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <filesystem>

#include "base/fault.h"
#include "base/options.h"
#include "base/status.h"

namespace tide::pages {
namespace {

// 64 MiB: few enough fallocate calls, small enough to give a half-full disk a chance.
constexpr int64_t kChunkSlots = 32;

std::string DefaultDir() {
  const std::string cache = Environment("XDG_CACHE_HOME");
  if (!cache.empty()) return cache + "/torchtide";
  const std::string home = Environment("HOME");
  return (home.empty() ? "/var/tmp" : home + "/.cache") + "/torchtide";
}

}  // namespace

// Note [Held slots]: a forked child maps the slots that were out at the fork (MAP_PRIVATE), so
// their bytes must not be overwritten by another page while it lives. The child inherits the write
// end of a pipe; when the last such process has gone the read end reports end-of-file, and slots
// freed meanwhile become usable.

absl::StatusOr<std::unique_ptr<SpillFile>> SpillFile::Open(const SpillOptions& options) {
  SpillOptions resolved = options;
  if (resolved.dir.empty()) resolved.dir = DefaultDir();
  std::error_code error;
  std::filesystem::create_directories(resolved.dir, error);
  if (error) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot make the spill folder ", resolved.dir, ": ", error.message(),
                     "; set TIDE_SPILL_DIR to a folder on a disk"));
  }
  struct statfs info;
  if (statfs(resolved.dir.c_str(), &info) != 0)
    return ErrnoStatus(absl::StrCat("cannot look at ", resolved.dir));
  if (info.f_type == TMPFS_MAGIC || info.f_type == RAMFS_MAGIC) {
    return absl::FailedPreconditionError(
        absl::StrCat("the spill folder ", resolved.dir,
                     " is in memory (tmpfs): spilling there would free nothing; set "
                     "TIDE_SPILL_DIR to a folder on a disk"));
  }
  UniqueFd fd(open(resolved.dir.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!fd) {  // a file system without O_TMPFILE
    std::string name = resolved.dir + "/spill-XXXXXX";
    fd.reset(mkostemp(name.data(), O_CLOEXEC));
    if (!fd) return ErrnoStatus(absl::StrCat("cannot make a spill file in ", resolved.dir));
    unlink(name.c_str());
  }
  UniqueFd direct_fd(
      open(absl::StrCat("/proc/self/fd/", fd.get()).c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  return std::unique_ptr<SpillFile>(
      new SpillFile(std::move(resolved), std::move(fd), std::move(direct_fd)));
}

SpillFile::~SpillFile() {
  for (int fd : fork_pipe_) {
    if (fd >= 0) close(fd);
  }
}

absl::Status SpillFile::Grow() {
  TIDE_RETURN_IF_ERROR(FaultPoint("pages.spill_grow"));
  const Bytes size = kPage * (slot_count_ + kChunkSlots);
  if (size > options_.size_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the spill file would grow to ", FormatBytes(size), ", its cap is ",
                     FormatBytes(options_.size_max), "; raise TIDE_SPILL_MAX"));
  }
  struct statvfs disk;
  if (fstatvfs(fd_.get(), &disk) != 0) return ErrnoStatus("cannot ask the disk for its free space");
  const Bytes available(static_cast<int64_t>(disk.f_bavail) * static_cast<int64_t>(disk.f_frsize));
  if (available - kPage * kChunkSlots < options_.disk_free_min) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the disk of ", options_.dir, " has ", FormatBytes(available),
                     " free and keeps ", FormatBytes(options_.disk_free_min),
                     " for others; free space there or set TIDE_SPILL_DIR"));
  }
  // Preallocated, so that a full disk is an error here and not a SIGBUS at a write through the
  // mapping.
  const int error =
      posix_fallocate(fd_.get(), kPage.value() * slot_count_, kPage.value() * kChunkSlots);
  if (error != 0) {
    return ErrnoStatus(
        absl::StrCat("cannot grow the spill file in ", options_.dir, " to ", FormatBytes(size)),
        error);
  }
  // Popped from the back: lowest slots first, so that neighbours in memory become neighbours on
  // disk.
  for (int64_t i = kChunkSlots - 1; i >= 0; --i) free_.push_back(SpillSlot(slot_count_ + i));
  slot_count_ += kChunkSlots;
  return absl::OkStatus();
}

absl::StatusOr<SpillSlot> SpillFile::Allocate() {
  if (free_.empty()) CollectHeld();
  if (free_.empty()) TIDE_RETURN_IF_ERROR(Grow());
  const SpillSlot slot = free_.back();
  free_.pop_back();
  ++used_;
  return slot;
}

void SpillFile::Free(SpillSlot slot) {
  --used_;
  if (!children_.empty()) CollectHeld();
  if (!children_.empty()) {
    held_.push_back(slot);
    return;
  }
  Forget(slot);
  free_.push_back(slot);
}

void SpillFile::Forget(SpillSlot slot) {
  // Dead bytes must neither be written to the disk nor stay in memory; the blocks stay allocated,
  // so that a later write through a mapping cannot meet a full disk.
  if (fallocate(fd_.get(), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, Offset(slot).value(),
                kPage.value()) != 0) {
    posix_fadvise(fd_.get(), Offset(slot).value(), kPage.value(), POSIX_FADV_DONTNEED);
  }
}

void SpillFile::CollectHeld() {
  std::erase_if(children_, [](const UniqueFd& fd) {
    pollfd poller{fd.get(), POLLIN, 0};
    return poll(&poller, 1, 0) == 1 && (poller.revents & (POLLHUP | POLLERR)) != 0;
  });
  if (!children_.empty()) return;
  for (SpillSlot slot : held_) Forget(slot);
  free_.insert(free_.end(), held_.begin(), held_.end());
  held_.clear();
}

void SpillFile::BeforeFork() {
  if (used_ == 0) return;
  if (pipe2(fork_pipe_, O_CLOEXEC) != 0) fork_pipe_[0] = fork_pipe_[1] = -1;
}

void SpillFile::AfterForkInParent() {
  if (fork_pipe_[0] < 0) return;
  close(fork_pipe_[1]);
  children_.emplace_back(fork_pipe_[0]);
  fork_pipe_[0] = fork_pipe_[1] = -1;
}

void SpillFile::AfterForkInChild() {
  if (fork_pipe_[0] >= 0) close(fork_pipe_[0]);
  fork_pipe_[0] = -1;  // the write end stays open until this child has gone
}

}  // namespace tide::pages

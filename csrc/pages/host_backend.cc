#include "pages/host_backend.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <vector>

#include "base/fault.h"
#include "base/status.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

namespace tide::pages {
namespace {

constexpr int kReadWrite = PROT_READ | PROT_WRITE;
constexpr size_t kSystemPage = 4096;
// A huge page of a file is read by one fault, or by a few where memory is in pieces; of small pages
// a fault maps at most the 64 KiB around it, which makes 32.
constexpr int64_t kHugeFaultsMax = 16;
// Pages with which it is tried: of one that was in memory already nothing can be learnt.
constexpr int kHugeTriesMax = 4;

int64_t FaultsOfThisThread() {
  rusage usage = {};
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_minflt + usage.ru_majflt;
}

absl::Status MapAt(char* at, Bytes size, int flags, int fd, Bytes offset, const char* what) {
  TIDE_RETURN_IF_ERROR(FaultPoint("pages.map"));
  void* mapped =
      mmap(at, size.size(), kReadWrite, flags | MAP_FIXED | MAP_NORESERVE, fd, offset.value());
  if (mapped == MAP_FAILED) {
    return ErrnoStatus(absl::StrCat("cannot map ", FormatBytes(size), " of ", what,
                                    " memory (vm.max_map_count may be too small)"));
  }
  return absl::OkStatus();
}

class HostBackend final : public Backend {
 public:
  explicit HostBackend(bool huge_pages) : huge_pages_(huge_pages) {}

  absl::StatusOr<char*> Reserve(Bytes size) override {
    const Bytes padded = size + kPage;
    void* raw =
        mmap(nullptr, padded.size(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED) {
      return ErrnoStatus(absl::StrCat("cannot reserve ", FormatBytes(padded), " of address space"));
    }
    const uintptr_t start = reinterpret_cast<uintptr_t>(raw);
    const uintptr_t mask = kPage.size() - 1;
    char* base = reinterpret_cast<char*>((start + mask) & ~mask);
    const size_t head = base - static_cast<char*>(raw);
    if (head > 0) munmap(raw, head);
    munmap(base + size.size(), kPage.size() - head);
    if (absl::Status status = MapPrivate(base, size); !status.ok()) {
      munmap(base, size.size());
      return status;
    }
    return base;
  }

  void Unreserve(char* base, Bytes size) override { munmap(base, size.size()); }

  absl::Status MapPrivate(char* at, Bytes size) override {
    TIDE_RETURN_IF_ERROR(MapAt(at, size, MAP_PRIVATE | MAP_ANONYMOUS, -1, Bytes(0), "private"));
    if (huge_pages_) madvise(at, size.size(), MADV_HUGEPAGE);
    return absl::OkStatus();
  }

  absl::Status MapLane(char* at, Bytes size, int fd, Bytes offset) override {
    TIDE_RETURN_IF_ERROR(MapAt(at, size, MAP_SHARED, fd, offset, "lane"));
    if (madvise(at, size.size(), MADV_DONTFORK) != 0)
      return ErrnoStatus("cannot keep lane pages from children");
    return absl::OkStatus();
  }

  absl::Status MapFile(char* at, Bytes size, int fd, Bytes offset) override {
    TIDE_RETURN_IF_ERROR(MapAt(at, size, MAP_SHARED, fd, offset, "demoted"));
    AskForHugeFile(at, size, fd, offset);
    return absl::OkStatus();
  }

  absl::Status MapFilePrivate(char* at, Bytes size, int fd, Bytes offset) override {
    return MapAt(at, size, MAP_PRIVATE, fd, offset, "demoted");
  }

  absl::Status Discard(char* at, Bytes size) override {
    if (madvise(at, size.size(), MADV_DONTNEED) != 0) return ErrnoStatus("cannot give memory back");
    return absl::OkStatus();
  }

  absl::StatusOr<char*> MapScratch(Bytes size) override {
    TIDE_RETURN_IF_ERROR(FaultPoint("pages.scratch"));
    // One page more than needed, cut to a page boundary: mremap then moves whole huge pages.
    const Bytes padded = size + kPage;
    void* raw = mmap(nullptr, padded.size(), kReadWrite,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED)
      return ErrnoStatus(absl::StrCat("cannot map ", FormatBytes(size), " to move pages"));
    const uintptr_t mask = kPage.size() - 1;
    char* base = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(raw) + mask) & ~mask);
    const size_t head = base - static_cast<char*>(raw);
    if (head > 0) munmap(raw, head);
    munmap(base + size.size(), padded.size() - head - size.size());
    if (huge_pages_ && size >= kPage) madvise(base, size.size(), MADV_HUGEPAGE);
    return base;
  }

  absl::Status Publish(char* scratch, char* at, Bytes size) override {
    TIDE_RETURN_IF_ERROR(FaultPoint("pages.publish"));
    void* moved = mremap(scratch, size.size(), size.size(), MREMAP_MAYMOVE | MREMAP_FIXED, at);
    if (moved == MAP_FAILED)
      return ErrnoStatus(absl::StrCat("cannot move ", FormatBytes(size), " to its address"));
    return absl::OkStatus();
  }

  void DropScratch(char* scratch, Bytes size) override { munmap(scratch, size.size()); }

  absl::Status WriteFile(int fd, Bytes offset, const char* from, Bytes size) override {
    TIDE_RETURN_IF_ERROR(FaultPoint("pages.spill_write"));
    for (int64_t done = 0; done < size.value();) {
      const ssize_t wrote = pwrite(fd, from + done, size.value() - done, offset.value() + done);
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote <= 0)
        return ErrnoStatus(absl::StrCat("cannot write ", FormatBytes(size), " to the spill file"));
      done += wrote;
    }
    return absl::OkStatus();
  }

  absl::Status ReadFile(int fd, Bytes offset, char* to, Bytes size) override {
    TIDE_RETURN_IF_ERROR(FaultPoint("pages.spill_read"));
    for (int64_t done = 0; done < size.value();) {
      const ssize_t got = pread(fd, to + done, size.value() - done, offset.value() + done);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0)
        return ErrnoStatus(absl::StrCat("cannot read ", FormatBytes(size), " from the spill file"));
      if (got == 0) return absl::DataLossError("the spill file is shorter than it was");
      done += got;
    }
    return absl::OkStatus();
  }

  void ReadAhead(char* at, Bytes size) override {
    // Small pages are asked for exactly first: page faults alone would read ahead as far as the
    // disk is set to, often megabytes of other pages around. Huge ones are read whole by a fault.
    if (huge_files_.load(std::memory_order_relaxed) != HugeFiles::kYes)
      madvise(at, size.size(), MADV_WILLNEED);
    madvise(at, size.size(), MADV_POPULATE_WRITE);
  }

  void StartWriteBack(int fd, Bytes offset, Bytes size) override {
    sync_file_range(fd, offset.value(), size.value(), SYNC_FILE_RANGE_WRITE);
  }

  void DropResident(char* at, Bytes size, int fd, Bytes offset) override {
    // Contents are in the page cache, so unmapping and dropping loses nothing: clean first, then
    // drop.
    madvise(at, size.size(), MADV_PAGEOUT);
    sync_file_range(
        fd, offset.value(), size.value(),
        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    madvise(at, size.size(), MADV_PAGEOUT);
    posix_fadvise(fd, offset.value(), size.value(), POSIX_FADV_DONTNEED);
  }

  Bytes Resident(char* at, Bytes size) override {
    std::vector<unsigned char> present(size.size() / kSystemPage);
    if (mincore(at, size.size(), present.data()) != 0) return Bytes(0);
    int64_t count = 0;
    for (unsigned char page : present) count += page & 1;
    return Bytes(count * static_cast<int64_t>(kSystemPage));
  }

 private:
  enum class HugeFiles { kUnknown, kNo, kYes };

  // Huge pages of a file (an ext4 of Linux 6.16, an xfs of 5.18 have them) cost a tenth of small
  // ones to read, to write for the first time, and to drop. Where the first pages do not come as
  // one each, mappings stay as they would be without the advice: it also turns off the reading
  // ahead on which small pages depend.
  void AskForHugeFile(char* at, Bytes size, int fd, Bytes offset) {
    const HugeFiles known = huge_files_.load(std::memory_order_relaxed);
    if (!huge_pages_ || known == HugeFiles::kNo) return;
    const bool whole = reinterpret_cast<uintptr_t>(at) % kPage.size() == 0 &&
                       offset.value() % kPage.value() == 0 && size == kPage;
    if (known == HugeFiles::kUnknown && !whole) return;
    madvise(at, size.size(), MADV_HUGEPAGE);
    madvise(at, size.size(), MADV_RANDOM);  // or a fault reads the next huge page of the file too
    if (known == HugeFiles::kYes) return;
    const int64_t before = FaultsOfThisThread();
    const bool huge = madvise(at, size.size(), MADV_POPULATE_READ) == 0 &&
                      FaultsOfThisThread() - before <= kHugeFaultsMax;
    DropResident(at, size, fd, offset);
    if (huge) huge_files_.store(HugeFiles::kYes, std::memory_order_relaxed);
    if (huge) return;
    if (huge_tries_.fetch_add(1, std::memory_order_relaxed) + 1 >= kHugeTriesMax)
      huge_files_.store(HugeFiles::kNo, std::memory_order_relaxed);
    madvise(at, size.size(), MADV_NOHUGEPAGE);
    madvise(at, size.size(), MADV_NORMAL);
  }

  const bool huge_pages_;
  std::atomic<HugeFiles> huge_files_{HugeFiles::kUnknown};
  std::atomic<int> huge_tries_{0};
};

}  // namespace

std::unique_ptr<Backend> MakeHostBackend(bool huge_pages) {
  return std::make_unique<HostBackend>(huge_pages);
}

void CollapseShared(char* at, Bytes size) { madvise(at, size.size(), MADV_COLLAPSE); }

}  // namespace tide::pages

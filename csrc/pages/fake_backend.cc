#include "pages/fake_backend.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/fault.h"
#include "base/status.h"

namespace tide::pages {
namespace {

constexpr int64_t kCell = 4096;

// Zeroed and aligned to kPage; `raw` is what has to be freed. calloc, so that large ranges cost
// what is touched.
char* AllocateAligned(Bytes size, char** raw) {
  *raw = static_cast<char*>(std::calloc(1, (size + kPage).size()));
  const uintptr_t mask = kPage.size() - 1;
  return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(*raw) + mask) & ~mask);
}

absl::Status ReadAll(int fd, int64_t offset, char* to, int64_t size) {
  for (int64_t done = 0; done < size;) {
    const ssize_t got = pread(fd, to + done, size - done, offset + done);
    if (got < 0) return ErrnoStatus("cannot read the file behind a mapping");
    if (got == 0) {  // as a sparse file that is long enough
      std::memset(to + done, 0, size - done);
      return absl::OkStatus();
    }
    done += got;
  }
  return absl::OkStatus();
}

absl::Status WriteAll(int fd, int64_t offset, const char* from, int64_t size) {
  for (int64_t done = 0; done < size;) {
    const ssize_t wrote = pwrite(fd, from + done, size - done, offset + done);
    if (wrote <= 0) return ErrnoStatus("cannot write the file behind a mapping");
    done += wrote;
  }
  return absl::OkStatus();
}

absl::Status CheckAligned(const char* at, Bytes size, Bytes offset) {
  const int64_t bits =
      static_cast<int64_t>(reinterpret_cast<uintptr_t>(at)) | size.value() | offset.value();
  if (size <= Bytes(0) || bits % kCell != 0)
    return absl::InvalidArgumentError("a range must be whole 4 KiB pages");
  return absl::OkStatus();
}

}  // namespace

FakeBackend::~FakeBackend() {
  for (auto& [base, range] : ranges_) std::free(range.raw);
  for (auto& [base, entry] : scratch_) std::free(entry.second);
  for (auto& [file, fd] : files_) close(fd);
}

absl::StatusOr<FakeBackend::FileId> FakeBackend::Identify(int fd) {
  struct stat info;
  if (fstat(fd, &info) != 0) return ErrnoStatus("cannot look at the file to map");
  return FileId(info.st_dev, info.st_ino);
}

absl::StatusOr<char*> FakeBackend::Reserve(Bytes size) {
  TIDE_RETURN_IF_ERROR(CheckAligned(nullptr, size, Bytes(0)));
  char* raw = nullptr;
  char* const base = AllocateAligned(size, &raw);
  if (raw == nullptr)
    return absl::ResourceExhaustedError(absl::StrCat("no plain memory of ", FormatBytes(size)));
  absl::MutexLock lock(&mu_);
  ranges_[base] = {raw, std::vector<Cell>(size.size() / kCell)};
  return base;
}

void FakeBackend::Unreserve(char* base, Bytes size) {
  absl::MutexLock lock(&mu_);
  const auto cells = Find(base, size);
  if (!cells.ok()) return;
  Forget(base, *cells, size.value() / kCell).IgnoreError();
  std::free(ranges_[base].raw);
  ranges_.erase(base);
}

absl::StatusOr<FakeBackend::Cell*> FakeBackend::Find(const char* at, Bytes size) {
  TIDE_RETURN_IF_ERROR(CheckAligned(at, size, Bytes(0)));
  auto after = ranges_.upper_bound(const_cast<char*>(at));
  if (after != ranges_.begin()) {
    auto& [base, range] = *std::prev(after);
    const int64_t first = (at - base) / kCell;
    if (first + size.value() / kCell <= static_cast<int64_t>(range.cells.size()))
      return &range.cells[first];
  }
  return absl::InvalidArgumentError("the range lies outside of what was reserved");
}

char* FakeBackend::MappedAt(const FileId& file, int64_t offset) {
  auto found = mapped_.find({file, offset});
  return found == mapped_.end() ? nullptr : found->second;
}

absl::Status FakeBackend::Forget(char* at, Cell* cells, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    Cell& cell = cells[i];
    if (cell.tier != Tier::kPrivate && !cell.own) {
      TIDE_ASSIGN_OR_RETURN(const FileId file, Identify(cell.fd));
      TIDE_RETURN_IF_ERROR(WriteAll(cell.fd, cell.offset, at + i * kCell, kCell));
      mapped_.erase({file, cell.offset});
    }
    cell = Cell();
  }
  return absl::OkStatus();
}

absl::Status FakeBackend::MapPrivate(char* at, Bytes size) {
  TIDE_RETURN_IF_ERROR(FaultPoint("pages.map"));
  absl::MutexLock lock(&mu_);
  TIDE_ASSIGN_OR_RETURN(Cell * cells, Find(at, size));
  TIDE_RETURN_IF_ERROR(Forget(at, cells, size.value() / kCell));
  std::memset(at, 0, size.size());
  return absl::OkStatus();
}

absl::Status FakeBackend::MapBacked(char* at, Bytes size, const Cell& wanted) {
  TIDE_RETURN_IF_ERROR(CheckAligned(at, size, Bytes(wanted.offset)));
  TIDE_ASSIGN_OR_RETURN(Cell * cells, Find(at, size));
  TIDE_ASSIGN_OR_RETURN(const FileId file, Identify(wanted.fd));
  const int64_t count = size.value() / kCell;
  for (int64_t i = 0; i < count; ++i) {
    const bool from_file = wanted.own && cells[i].tier == Tier::kFile && !cells[i].own;
    const bool expected =
        wanted.own ? from_file : cells[i].tier == Tier::kPrivate || cells[i].tier == wanted.tier;
    if (!expected ||
        (wanted.tier == Tier::kFile && !wanted.own && cells[i].tier != Tier::kPrivate)) {
      return absl::FailedPreconditionError("a map over pages of another tier");
    }
    char* const there = MappedAt(file, wanted.offset + i * kCell);
    if (there != nullptr && (there < at || there >= at + size.value())) {
      return absl::FailedPreconditionError("these bytes of the file are mapped elsewhere");
    }
  }
  TIDE_RETURN_IF_ERROR(Forget(at, cells, count));
  TIDE_RETURN_IF_ERROR(ReadAll(wanted.fd, wanted.offset, at, size.value()));
  if (!files_.contains(file)) files_[file] = dup(wanted.fd);
  for (int64_t i = 0; i < count; ++i) {
    cells[i] = wanted;
    cells[i].offset = wanted.offset + i * kCell;
    cells[i].fd = files_[file];
    if (wanted.own) continue;
    mapped_[{file, cells[i].offset}] = at + i * kCell;
  }
  return absl::OkStatus();
}

absl::Status FakeBackend::MapLane(char* at, Bytes size, int fd, Bytes offset) {
  TIDE_RETURN_IF_ERROR(FaultPoint("pages.map"));
  absl::MutexLock lock(&mu_);
  return MapBacked(at, size, {Tier::kLane, false, true, fd, offset.value()});
}

absl::Status FakeBackend::MapFile(char* at, Bytes size, int fd, Bytes offset) {
  TIDE_RETURN_IF_ERROR(FaultPoint("pages.map"));
  absl::MutexLock lock(&mu_);
  return MapBacked(at, size, {Tier::kFile, false, true, fd, offset.value()});
}

absl::Status FakeBackend::MapFilePrivate(char* at, Bytes size, int fd, Bytes offset) {
  TIDE_RETURN_IF_ERROR(FaultPoint("pages.map"));
  absl::MutexLock lock(&mu_);
  return MapBacked(at, size, {Tier::kFile, true, true, fd, offset.value()});
}

absl::Status FakeBackend::Discard(char* at, Bytes size) {
  absl::MutexLock lock(&mu_);
  TIDE_ASSIGN_OR_RETURN(const Cell* cells, Find(at, size));
  for (int64_t i = 0; i < size.value() / kCell; ++i) {
    if (cells[i].tier != Tier::kPrivate)
      return absl::FailedPreconditionError("a discard of a page that is not private");
  }
  std::memset(at, 0, size.size());
  return absl::OkStatus();
}

absl::StatusOr<char*> FakeBackend::MapScratch(Bytes size) {
  TIDE_RETURN_IF_ERROR(FaultPoint("pages.scratch"));
  TIDE_RETURN_IF_ERROR(CheckAligned(nullptr, size, Bytes(0)));
  char* raw = nullptr;
  char* const base = AllocateAligned(size, &raw);
  if (raw == nullptr) return absl::ResourceExhaustedError("no plain memory for scratch");
  absl::MutexLock lock(&mu_);
  scratch_[base] = {size, raw};
  return base;
}

absl::Status FakeBackend::Publish(char* scratch, char* at, Bytes size) {
  TIDE_RETURN_IF_ERROR(FaultPoint("pages.publish"));
  absl::MutexLock lock(&mu_);
  auto found = scratch_.find(scratch);
  if (found == scratch_.end() || found->second.first != size) {
    return absl::FailedPreconditionError("a publish of what is no scratch of that size");
  }
  TIDE_ASSIGN_OR_RETURN(Cell * cells, Find(at, size));
  for (int64_t i = 0; i < size.value() / kCell; ++i) {
    if (cells[i].tier == Tier::kPrivate)
      return absl::FailedPreconditionError("a publish onto private memory");
  }
  TIDE_RETURN_IF_ERROR(Forget(at, cells, size.value() / kCell));
  std::memcpy(at, scratch, size.size());
  std::free(found->second.second);
  scratch_.erase(found);
  return absl::OkStatus();
}

void FakeBackend::DropScratch(char* scratch, Bytes) {
  absl::MutexLock lock(&mu_);
  auto found = scratch_.find(scratch);
  if (found == scratch_.end()) return;
  std::free(found->second.second);
  scratch_.erase(found);
}

absl::Status FakeBackend::WriteFile(int fd, Bytes offset, const char* from, Bytes size) {
  TIDE_RETURN_IF_ERROR(FaultPoint("pages.spill_write"));
  TIDE_RETURN_IF_ERROR(CheckAligned(from, size, offset));
  absl::MutexLock lock(&mu_);
  TIDE_ASSIGN_OR_RETURN(const FileId file, Identify(fd));
  TIDE_RETURN_IF_ERROR(WriteAll(fd, offset.value(), from, size.value()));
  for (int64_t at = 0; at < size.value(); at += kCell) {
    char* const there = MappedAt(file, offset.value() + at);
    if (there != nullptr) std::memcpy(there, from + at, kCell);
  }
  return absl::OkStatus();
}

absl::Status FakeBackend::ReadFile(int fd, Bytes offset, char* to, Bytes size) {
  TIDE_RETURN_IF_ERROR(FaultPoint("pages.spill_read"));
  TIDE_RETURN_IF_ERROR(CheckAligned(to, size, offset));
  absl::MutexLock lock(&mu_);
  TIDE_ASSIGN_OR_RETURN(const FileId file, Identify(fd));
  TIDE_RETURN_IF_ERROR(ReadAll(fd, offset.value(), to, size.value()));
  for (int64_t at = 0; at < size.value(); at += kCell) {
    const char* const there = MappedAt(file, offset.value() + at);
    if (there != nullptr) std::memcpy(to + at, there, kCell);
  }
  return absl::OkStatus();
}

void FakeBackend::ReadAhead(char* at, Bytes size) {
  absl::MutexLock lock(&mu_);
  ++read_aheads_;
  const auto cells = Find(at, size);
  if (cells.ok())
    std::for_each(*cells, *cells + size.value() / kCell, [](Cell& cell) { cell.in_memory = true; });
}

void FakeBackend::StartWriteBack(int, Bytes, Bytes) {}

void FakeBackend::DropResident(char* at, Bytes size, int, Bytes) {
  absl::MutexLock lock(&mu_);
  ++drops_;
  const auto cells = Find(at, size);
  if (!cells.ok()) return;
  for (int64_t i = 0; i < size.value() / kCell; ++i)
    (*cells)[i].in_memory = (*cells)[i].tier != Tier::kFile;
}

Bytes FakeBackend::Resident(char* at, Bytes size) {
  absl::MutexLock lock(&mu_);
  const auto cells = Find(at, size);
  if (!cells.ok()) return Bytes(0);
  const auto count = std::count_if(*cells, *cells + size.value() / kCell,
                                   [](const Cell& c) { return c.in_memory; });
  return Bytes(count * kCell);
}

Tier FakeBackend::TierAt(const char* at) const {
  absl::MutexLock lock(&mu_);
  auto after = ranges_.upper_bound(const_cast<char*>(at));
  if (after == ranges_.begin()) return Tier::kPrivate;
  const auto& [base, range] = *std::prev(after);
  const size_t index = static_cast<size_t>(at - base) / kCell;
  return index < range.cells.size() ? range.cells[index].tier : Tier::kPrivate;
}

int64_t FakeBackend::scratch_count() const {
  absl::MutexLock lock(&mu_);
  return static_cast<int64_t>(scratch_.size());
}

int64_t FakeBackend::read_ahead_count() const {
  absl::MutexLock lock(&mu_);
  return read_aheads_;
}

int64_t FakeBackend::drop_count() const {
  absl::MutexLock lock(&mu_);
  return drops_;
}

bool FakeBackend::AwaitHints(int64_t read_ahead_count, int64_t drop_count,
                             absl::Duration timeout) const {
  const auto reached = [&] {
    mu_.AssertReaderHeld();
    return read_aheads_ >= read_ahead_count && drops_ >= drop_count;
  };
  absl::MutexLock lock(&mu_);
  return mu_.AwaitWithTimeout(absl::Condition(&reached), timeout);
}

}  // namespace tide::pages

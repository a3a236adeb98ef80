#include "pages/pinned_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace tide::pages {
namespace {

constexpr Bytes kChunk = MiB(240);  // twelve of PyTorch's large pages
constexpr int kWorkersMax = 8;
constexpr size_t kTouchStride = 4096;

Bytes RoundUp(Bytes size) {
  return Bytes((size.value() + kPage.value() - 1) / kPage.value() * kPage.value());
}

/// Anonymous memory aligned to kPage, or null.
char* MapAligned(Bytes size) {
  const size_t padded = size.size() + kPage.size();
  void* raw = mmap(nullptr, padded, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  const uintptr_t mask = kPage.size() - 1;
  char* base = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(raw) + mask) & ~mask);
  const size_t head = base - static_cast<char*>(raw);
  if (head > 0) munmap(raw, head);
  munmap(base + size.size(), kPage.size() - head);
  return base;
}

/// Whether the memory is there; kernels before 5.14 fill it in at a touch.
bool Populate(char* base, Bytes size) {
  madvise(base, size.size(), MADV_HUGEPAGE);
  madvise(base, size.size(), MADV_DONTFORK);  // a child must not copy what a device writes
  if (madvise(base, size.size(), MADV_POPULATE_WRITE) == 0) return true;
  if (errno != EINVAL) return false;
  for (size_t at = 0; at < size.size(); at += kTouchStride) {
    reinterpret_cast<volatile char*>(base)[at] = 0;
  }
  return true;
}

int WorkersFor(size_t orders) {
  const int half = static_cast<int>(std::thread::hardware_concurrency() / 2);
  return std::min({std::max(half, 1), kWorkersMax, static_cast<int>(orders)});
}

}  // namespace

PinnedPool::~PinnedPool() {
  JoinWorkers();
  Trim(Bytes(0));
}

absl::StatusOr<std::unique_ptr<PinnedPool::Chunk>> PinnedPool::MakeChunk(Bytes size) {
  const cuda::ScopedContext context(driver_, 0);
  TIDE_RETURN_IF_ERROR(context.status());
  auto chunk = std::make_unique<Chunk>();
  chunk->size = size;
  chunk->base = MapAligned(size);
  if (chunk->base == nullptr || !Populate(chunk->base, size)) {
    if (chunk->base != nullptr) munmap(chunk->base, size.size());
    return absl::ResourceExhaustedError(
        absl::StrCat("the system has no ", FormatBytes(size), " of memory for pages to wait in"));
  }
  const absl::Status status =
      driver_.Check(driver_.calls().host_register(chunk->base, size.size(), 0), "pinned memory");
  if (!status.ok()) {
    munmap(chunk->base, size.size());
    return status;
  }
  chunk->taken.resize(size.size() / kPage.size());
  return chunk;
}

absl::Status PinnedPool::DropChunk(const Chunk& chunk) {
  const cuda::ScopedContext context(driver_, 0);
  TIDE_RETURN_IF_ERROR(context.status());
  TIDE_RETURN_IF_ERROR(
      driver_.Check(driver_.calls().host_unregister(chunk.base), "give pinned memory back"));
  munmap(chunk.base, chunk.size.size());
  return absl::OkStatus();
}

void PinnedPool::Prepare(Bytes bytes) {
  JoinWorkers();
  absl::MutexLock preparing(&prepare_mu_);
  int workers = 0;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& chunk : chunks_) bytes -= chunk->size - chunk->used;
    for (bytes = RoundUp(bytes); bytes > Bytes(0); bytes -= orders_.back()) {
      orders_.push_back(std::min(bytes, kChunk));
    }
    workers = at_work_ = WorkersFor(orders_.size());
  }
  for (int i = 0; i < workers; ++i) workers_.emplace_back([this] { Work(); });
}

void PinnedPool::Work() {
  absl::MutexLock lock(&mu_);
  while (!orders_.empty()) {
    const Bytes size = orders_.back();
    orders_.pop_back();
    mu_.Unlock();
    auto chunk = MakeChunk(size);
    mu_.Lock();
    if (!chunk.ok()) orders_.clear();  // whoever needs it tries once more, and hears why
    if (chunk.ok()) chunks_.push_back(*std::move(chunk));
    made_.SignalAll();
  }
  --at_work_;
  made_.SignalAll();
}

void PinnedPool::JoinWorkers() {
  absl::MutexLock preparing(&prepare_mu_);
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

char* PinnedPool::Cut(Bytes size) {
  const size_t wanted = size.size() / kPage.size();
  for (const auto& chunk : chunks_) {
    if (chunk->size - chunk->used < size) continue;
    size_t run = 0;
    for (size_t i = 0; i < chunk->taken.size(); ++i) {
      run = chunk->taken[i] ? 0 : run + 1;
      if (run < wanted) continue;
      const size_t first = i + 1 - wanted;
      std::fill_n(chunk->taken.begin() + static_cast<std::ptrdiff_t>(first), wanted, true);
      chunk->used += size;
      return chunk->base + first * kPage.size();
    }
  }
  return nullptr;
}

absl::StatusOr<char*> PinnedPool::Acquire(Bytes size) {
  size = RoundUp(size);
  {
    absl::MutexLock lock(&mu_);
    while (true) {
      if (char* block = Cut(size)) return block;
      if (at_work_ == 0) break;
      made_.Wait(&mu_);
    }
  }
  TIDE_ASSIGN_OR_RETURN(auto chunk, MakeChunk(size));
  absl::MutexLock lock(&mu_);
  std::fill(chunk->taken.begin(), chunk->taken.end(), true);
  chunk->used = size;
  char* const block = chunk->base;
  chunks_.push_back(std::move(chunk));
  return block;
}

void PinnedPool::Release(char* block, Bytes size) {
  size = RoundUp(size);
  absl::MutexLock lock(&mu_);
  for (const auto& chunk : chunks_) {
    if (block < chunk->base || block >= chunk->base + chunk->size.size()) continue;
    const auto first = static_cast<std::ptrdiff_t>((block - chunk->base) / kPage.value());
    std::fill_n(chunk->taken.begin() + first, size.size() / kPage.size(), false);
    chunk->used -= size;
    return;
  }
}

void PinnedPool::Trim(Bytes keep) {
  JoinWorkers();
  std::vector<std::unique_ptr<Chunk>> leaving;
  {
    absl::MutexLock lock(&mu_);
    Bytes held;
    for (const auto& chunk : chunks_) held += chunk->size;
    for (auto& chunk : chunks_) {
      if (held <= keep) break;
      if (chunk->used > Bytes(0)) continue;
      held -= chunk->size;
      leaving.push_back(std::move(chunk));
    }
    std::erase(chunks_, nullptr);
  }
  for (auto& chunk : leaving) {
    if (DropChunk(*chunk).ok()) continue;
    absl::MutexLock lock(&mu_);
    chunks_.push_back(std::move(chunk));
  }
}

Bytes PinnedPool::held() const {
  absl::MutexLock lock(&mu_);
  Bytes held;
  for (const auto& chunk : chunks_) held += chunk->size;
  return held;
}

Bytes PinnedPool::used() const {
  absl::MutexLock lock(&mu_);
  Bytes used;
  for (const auto& chunk : chunks_) used += chunk->used;
  return used;
}

}  // namespace tide::pages

#include "runtime/pager.h"

#include <algorithm>
#include <thread>

namespace tide::runtime {
namespace {

// An operator reports before it reads: what the last few used may still be in use.
constexpr int64_t kProtectOperators = 3;
// Pages dropped in one go: their write-back runs together, the oldest is waited for first.
constexpr int kDropBatch = 8;
// The thread looks at the schedule at least every so many operators.
constexpr int64_t kWakeEvery = 16;

}  // namespace

void Pager::SetWindow(Bytes window, int fd) {
  window_pages_.store(PagesFor(window).value(), std::memory_order_relaxed);
  fd_.store(fd, std::memory_order_relaxed);
  enabled_.store(fd >= 0, std::memory_order_relaxed);
  if (fd < 0) return;
  absl::MutexLock lock(&mu_);
  if (started_) return;
  started_ = true;
  std::thread([this] { Loop(); }).detach();
}

void Pager::BeginIteration(std::vector<arena::Arena::StreamPage> pages) {
  absl::MutexLock lock(&mu_);
  schedule_ = std::move(pages);
  next_ = 0;
  begin_now_ = arena_.now();
  woken_ = true;
  work_.Signal();
}

void Pager::EndIteration() {
  if (!enabled_.load(std::memory_order_relaxed)) return;
  absl::MutexLock lock(&mu_);
  next_ = 0;
  begin_now_ = arena_.now();
  woken_ = true;
  work_.Signal();
}

void Pager::Check() {
  const int64_t in_memory = arena_.streamed().value();
  const int64_t window = window_pages_.load(std::memory_order_relaxed);
  while (arena_.streamed().value() > 2 * window && Drop(kDropBatch) > 0) {
  }
  const int64_t now = arena_.now();
  if (in_memory <= window && now - woken_at_.load(std::memory_order_relaxed) < kWakeEvery) return;
  woken_at_.store(now, std::memory_order_relaxed);
  absl::MutexLock lock(&mu_);
  woken_ = true;
  work_.Signal();
}

void Pager::Loop() {
  for (;;) {
    {
      absl::MutexLock lock(&mu_);
      while (!woken_) work_.Wait(&mu_);
      woken_ = false;
    }
    for (bool busy = true; busy;) {
      const int64_t window = window_pages_.load(std::memory_order_relaxed);
      // A little below the window, so that reading ahead always has room.
      busy = arena_.streamed().value() > window * 3 / 4 && Drop(kDropBatch) > 0;
      while (arena_.streamed().value() < window && ReadOne()) busy = true;
    }
  }
}

int Pager::Drop(int count) {
  const std::vector<arena::Arena::StreamPage> pages =
      arena_.TakeOldest(count, arena_.now() - kProtectOperators);
  const int fd = fd_.load(std::memory_order_relaxed);
  // On pages that may meanwhile have become something else: a hint neither changes contents nor
  // depends on them.
  for (const auto& page : pages) backend_.StartWriteBack(fd, kPage * page.slot.value(), kPage);
  for (const auto& page : pages)
    backend_.DropResident(page.at, kPage, fd, kPage * page.slot.value());
  return static_cast<int>(pages.size());
}

bool Pager::ReadOne() {
  arena::Arena::StreamPage page;
  int64_t due = 0;
  {
    absl::MutexLock lock(&mu_);
    const int64_t tick = arena_.now() - begin_now_;
    while (next_ < schedule_.size() && schedule_[next_].first_tick < tick)
      ++next_;  // operators were faster
    if (next_ == schedule_.size()) return false;
    page = schedule_[next_++];
    due = begin_now_ + page.first_tick;
  }
  if (arena_.NoteReadAhead(page, due)) backend_.ReadAhead(page.at, kPage);
  return true;
}

}  // namespace tide::runtime

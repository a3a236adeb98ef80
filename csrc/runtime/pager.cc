#include "runtime/pager.h"

#include <algorithm>
#include <limits>
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
  std::thread([this] { ReadLoop(); }).detach();
  std::thread([this] { DropLoop(); }).detach();
}

void Pager::BeginIteration(std::vector<arena::Arena::StreamPage> visits) {
  absl::MutexLock lock(&mu_);
  schedule_ = std::move(visits);
  next_ = 0;
  begin_now_ = arena_.now();
  Wake();
}

void Pager::EndIteration() {
  if (!enabled_.load(std::memory_order_relaxed)) return;
  absl::MutexLock lock(&mu_);
  next_ = 0;
  begin_now_ = arena_.now();
  Wake();
}

void Pager::Check() {
  const int64_t in_memory = arena_.streamed().value();
  const int64_t window = window_pages_.load(std::memory_order_relaxed);
  while (arena_.streamed().value() > 2 * window && Drop(kDropBatch, -1) > 0) {
  }
  const int64_t now = arena_.now();
  if (in_memory <= window && now - woken_at_.load(std::memory_order_relaxed) < kWakeEvery) return;
  woken_at_.store(now, std::memory_order_relaxed);
  absl::MutexLock lock(&mu_);
  Wake();
}

void Pager::Wake() {
  read_woken_ = drop_woken_ = true;
  read_work_.Signal();
  drop_work_.Signal();
}

void Pager::ReadLoop() {
  for (;;) {
    {
      absl::MutexLock lock(&mu_);
      while (!read_woken_) read_work_.Wait(&mu_);
      read_woken_ = false;
    }
    while (arena_.streamed().value() < window_pages_.load(std::memory_order_relaxed) && ReadOne()) {
    }
    absl::MutexLock lock(&mu_);
    drop_woken_ = true;
    drop_work_.Signal();
  }
}

void Pager::DropLoop() {
  for (;;) {
    {
      absl::MutexLock lock(&mu_);
      while (!drop_woken_) drop_work_.Wait(&mu_);
      drop_woken_ = false;
    }
    for (;;) {
      // Behind the operators: what is used later than what is to be read next. Over the window,
      // whatever is not in use now.
      const int64_t window = window_pages_.load(std::memory_order_relaxed);
      const int64_t streamed = arena_.streamed().value();
      const int32_t beyond = streamed > window ? 0 : TicksToNextRead();
      if (streamed + kDropBatch <= window || Drop(kDropBatch, beyond) == 0) break;
      absl::MutexLock lock(&mu_);
      read_woken_ = true;
      read_work_.Signal();
    }
  }
}

int32_t Pager::TicksToNextRead() {
  absl::MutexLock lock(&mu_);
  if (next_ == schedule_.size()) return std::numeric_limits<int32_t>::max();
  const int64_t tick = arena_.now() - begin_now_;
  return static_cast<int32_t>(std::max<int64_t>(0, schedule_[next_].visit.first - tick));
}

int Pager::Drop(int count, int32_t beyond) {
  const std::vector<arena::Arena::StreamPage> pages = arena_.TakeFarthest(
      count,
      {.protect_from = arena_.now() - kProtectOperators, .tick = arena_.tick(), .beyond = beyond});
  dropping_.fetch_add(static_cast<int64_t>(pages.size()), std::memory_order_relaxed);
  const int fd = fd_.load(std::memory_order_relaxed);
  // On pages that may meanwhile have become something else: a hint neither changes contents nor
  // depends on them.
  for (const auto& page : pages) backend_.StartWriteBack(fd, kPage * page.slot.value(), kPage);
  for (const auto& page : pages) {
    backend_.DropResident(page.at, kPage, fd, kPage * page.slot.value());
    dropping_.fetch_sub(1, std::memory_order_relaxed);
  }
  return static_cast<int>(pages.size());
}

bool Pager::ReadOne() {
  arena::Arena::StreamPage page;
  int64_t due = 0;
  {
    absl::MutexLock lock(&mu_);
    const int64_t tick = arena_.now() - begin_now_;
    while (next_ < schedule_.size() && schedule_[next_].visit.last < tick)
      ++next_;  // operators were faster
    if (next_ == schedule_.size()) return false;
    page = schedule_[next_++];
    due = std::max(begin_now_ + page.visit.first, arena_.now());
  }
  if (arena_.NoteReadAhead(page, due)) backend_.ReadAhead(page.at, kPage);
  return true;
}

}  // namespace tide::runtime

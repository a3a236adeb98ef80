#include "runtime/pager.h"

#include <algorithm>

namespace tide::runtime {
namespace {

// An operator that has just begun reports its tick before it reads: its pages are done two operators later.
constexpr int32_t kLagTicks = 2;
// Write-back of this many pages is under way before the oldest is waited for.
constexpr size_t kWritesInFlight = 4;

}  // namespace

void Pager::BeginIteration(std::vector<arena::Arena::StreamPage> pages, int fd, Bytes window) {
  absl::MutexLock lock(&mu_);
  size_t kept = 0;
  if (mode_ == Mode::kPrefetching) {  // what was read ahead stays, as far as the order is the same
    while (kept < ahead_ && kept < pages.size() && entries_[kept].page == pages[kept].page) ++kept;
  }
  for (size_t i = std::max(behind_, kept); i < ahead_; ++i) leftover_.push_back(entries_[i]);
  entries_ = std::move(pages);
  behind_ = writing_ = 0;
  ahead_ = kept;
  fd_ = fd;
  window_ = window;
  mode_ = Mode::kIteration;
  woken_ = true;
  SetWakeTick();
  if (!started_ && !entries_.empty()) {
    started_ = true;
    std::thread([this] { Loop(); }).detach();
  }
  work_.Signal();
}

void Pager::EndIteration() {
  absl::MutexLock lock(&mu_);
  mode_ = Mode::kDraining;
  woken_ = true;
  work_.Signal();
}

void Pager::Wake() {
  absl::MutexLock lock(&mu_);
  wake_tick_.store(1 << 30, std::memory_order_relaxed);
  woken_ = true;
  work_.Signal();
}

void Pager::AbandonAfterFork() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  wake_tick_.store(1 << 30, std::memory_order_relaxed);
  started_ = true;  // never start one here
}

void Pager::SetWakeTick() {
  int32_t tick = 1 << 30;
  if (mode_ == Mode::kIteration && writing_ < entries_.size()) tick = entries_[writing_].last_tick + kLagTicks;
  wake_tick_.store(tick, std::memory_order_relaxed);
}

void Pager::Loop() {
  for (;;) {
    {
      absl::MutexLock lock(&mu_);
      while (!woken_) work_.Wait(&mu_);
      woken_ = false;
    }
    while (Step()) {
    }
    absl::MutexLock lock(&mu_);
    SetWakeTick();
  }
}

Pager::Work Pager::NextWork() {
  if (!leftover_.empty()) {
    const Work work{Action::kDrop, leftover_.back(), fd_};
    leftover_.pop_back();
    return work;
  }
  if (mode_ == Mode::kDraining && behind_ == entries_.size() && !entries_.empty()) {
    behind_ = writing_ = ahead_ = 0;
    mode_ = Mode::kPrefetching;
  }
  // Pages whose last operator is at or before `done` have been used.
  const int32_t done = mode_ == Mode::kIteration  ? arena_.tick() - kLagTicks
                       : mode_ == Mode::kDraining ? 1 << 30
                                                  : -2;
  // Operators may be ahead of the reading: those pages came in by page faults and leave all the same.
  while (ahead_ < entries_.size() && entries_[ahead_].last_tick <= done) ++ahead_;
  const bool full = kPage * static_cast<int64_t>(ahead_ - behind_) + kPage > window_;
  if (writing_ < ahead_ && entries_[writing_].last_tick <= done) return {Action::kWrite, entries_[writing_++], fd_};
  const bool drain = writing_ == entries_.size() || mode_ == Mode::kDraining || full;
  if (behind_ < writing_ && (drain || writing_ - behind_ > kWritesInFlight)) {
    return {Action::kDrop, entries_[behind_++], fd_};
  }
  if (ahead_ < entries_.size() && !full) return {Action::kRead, entries_[ahead_++], fd_};
  return {};
}

bool Pager::Step() {
  Work work;
  {
    absl::MutexLock lock(&mu_);
    work = NextWork();
    window_bytes_.store(kPage.value() * static_cast<int64_t>(ahead_ - behind_ + leftover_.size()),
                        std::memory_order_relaxed);
  }
  if (work.action == Action::kNone) return false;
  // On a page that may meanwhile have become something else: every hint is harmless then, since it neither
  // changes contents nor depends on them.
  if (!arena_.StillDemoted(work.page)) return true;
  const Bytes offset = kPage * work.page.slot.value();
  if (work.action == Action::kRead) backend_.ReadAhead(work.page.at, kPage);
  if (work.action == Action::kWrite) backend_.StartWriteBack(work.fd, offset, kPage);
  if (work.action == Action::kDrop) backend_.DropResident(work.page.at, kPage, work.fd, offset);
  return true;
}

}  // namespace tide::runtime

// Streams demoted pages through an iteration: reads ahead of the operators that will touch them,
// writes back and drops behind, so that the memory of the file tier stays within a window.
#pragma once

#include <atomic>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "arena/arena.h"
#include "base/bytes.h"
#include "pages/backend.h"

namespace tide::runtime {

/// Two threads, started when something streams: one reads, one drops, so that a disk does both at
/// once. They only give hints to the kernel about mappings that stay valid, so being late or wrong
/// costs time and never a byte.
class Pager {
 public:
  /// All borrowed for ever.
  Pager(arena::Arena& arena, pages::Backend& backend) : arena_(arena), backend_(backend) {}

  /// From now on at most `window` of the file tier should be in memory. `fd`: of the spill file.
  void SetWindow(Bytes window, int fd);
  /// The iteration that begins will make these visits, sorted by their beginning.
  void BeginIteration(std::vector<arena::Arena::StreamPage> visits);
  /// Between iterations the beginning of the next one is read ahead.
  void EndIteration();

  /// Called by the stepping thread at an operator or an allocation: wakes the threads when the
  /// window is full or the next pages are due. Beyond twice the window it drops pages itself, so
  /// that operators cannot outrun the disk.
  void AtSafePoint() {
    if (enabled_.load(std::memory_order_relaxed)) Check();
  }
  /// Pages that count as dropped but are in memory until the kernel has written them back.
  PageCount dropping() const { return PageCount(dropping_.load(std::memory_order_relaxed)); }
  /// In a forked child there is no thread.
  void AbandonAfterFork() { enabled_.store(false, std::memory_order_relaxed); }

 private:
  void Check();
  void ReadLoop();
  void DropLoop();
  void Wake() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  /// Drops up to `count` pages that no operator uses within the next `beyond` ones; returns how
  /// many.
  int Drop(int count, int32_t beyond);
  /// Operators until the next visit that is to be read; INT32_MAX when none is left.
  int32_t TicksToNextRead();
  /// Reads one page ahead; false when the window is full or nothing is left.
  bool ReadOne();

  arena::Arena& arena_;
  pages::Backend& backend_;
  std::atomic<bool> enabled_{false};      // relaxed: a hint, set before the iteration that needs it
  std::atomic<int64_t> window_pages_{0};  // relaxed: a hint
  std::atomic<int> fd_{-1};               // relaxed: set once
  std::atomic<int64_t> dropping_{0};      // relaxed: a count for the ledger
  std::atomic<int64_t> woken_at_{-1000};  // relaxed: operator at which the thread was woken last

  absl::Mutex mu_;
  absl::CondVar read_work_, drop_work_;
  std::vector<arena::Arena::StreamPage> schedule_ ABSL_GUARDED_BY(mu_);
  size_t next_ ABSL_GUARDED_BY(mu_) = 0;        // entry of the schedule to read next
  int64_t begin_now_ ABSL_GUARDED_BY(mu_) = 0;  // operator count at which the schedule's tick 0 is
  bool read_woken_ ABSL_GUARDED_BY(mu_) = false;
  bool drop_woken_ ABSL_GUARDED_BY(mu_) = false;
  bool started_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace tide::runtime

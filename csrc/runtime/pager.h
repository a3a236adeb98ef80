// Streams demoted pages through an iteration: reads ahead of the operators that will touch them, writes back and
// drops behind, so that the file tier's memory stays within a window.
#pragma once

#include <pthread.h>

#include <atomic>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "arena/arena.h"
#include "base/bytes.h"
#include "pages/backend.h"

namespace tide::runtime {

/// One copy thread, started when something streams. It only gives hints to the kernel about mappings that stay
/// valid, so being late or wrong costs time and never a byte.
class Pager {
 public:
  /// All borrowed for ever.
  Pager(arena::Arena& arena, pages::Backend& backend) : arena_(arena), backend_(backend) {}

  /// The iteration that begins will touch `pages` (sorted by first touch) with at most `window` of them in memory.
  void BeginIteration(std::vector<arena::Arena::StreamPage> pages, int fd, Bytes window);
  /// Nothing touches demoted pages for now: everything may be written back and dropped but the first window of the
  /// next iteration.
  void EndIteration();
  /// Called by the stepping thread when operators have passed `wake_tick()`.
  void Wake();
  int32_t wake_tick() const { return wake_tick_.load(std::memory_order_relaxed); }
  /// Demoted pages in memory as the pager counts them.
  Bytes window_bytes() const { return Bytes(window_bytes_.load(std::memory_order_relaxed)); }
  /// In a forked child there is no thread.
  void AbandonAfterFork();

 private:
  enum class Mode {
    kIteration,    // operators run: follow their ticks
    kDraining,     // the iteration has ended: everything read may leave
    kPrefetching,  // nothing is in memory: read the first window of the next iteration
  };
  void Loop();
  enum class Action { kNone, kRead, kWrite, kDrop };
  struct Work {
    Action action = Action::kNone;
    arena::Arena::StreamPage page;
    int fd = -1;
  };
  /// The next hint to give, and the indices moved past it.
  Work NextWork() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  /// Gives one hint outside of the lock; false when there is none now.
  bool Step() ABSL_LOCKS_EXCLUDED(mu_);
  void SetWakeTick() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  arena::Arena& arena_;
  pages::Backend& backend_;
  std::atomic<int32_t> wake_tick_{1 << 30};  // relaxed: a hint
  std::atomic<int64_t> window_bytes_{0};     // relaxed: a statistic

  absl::Mutex mu_;
  absl::CondVar work_;
  std::vector<arena::Arena::StreamPage> entries_ ABSL_GUARDED_BY(mu_);
  // Entries [behind_, ahead_) are in memory, [behind_, writing_) of them on their way out.
  size_t behind_ ABSL_GUARDED_BY(mu_) = 0;
  size_t writing_ ABSL_GUARDED_BY(mu_) = 0;
  size_t ahead_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<arena::Arena::StreamPage> leftover_ ABSL_GUARDED_BY(mu_);  // of an iteration before, to be dropped
  int fd_ ABSL_GUARDED_BY(mu_) = -1;
  Bytes window_ ABSL_GUARDED_BY(mu_);
  Mode mode_ ABSL_GUARDED_BY(mu_) = Mode::kDraining;
  bool woken_ ABSL_GUARDED_BY(mu_) = false;
  bool started_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace tide::runtime

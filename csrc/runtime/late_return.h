// Pages of a resumed job that come back while its next iteration already runs.
#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <optional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "pages/device_pages.h"
#include "pages/device_plan.h"

namespace tide::runtime {

/// A queue of pages and a thread that brings them back in order, one after the other. Thread-safe.
class LateReturn {
 public:
  /// Borrowed; lives longer.
  explicit LateReturn(pages::DevicePages& pages) : pages_(pages) {}
  ~LateReturn();
  LateReturn(const LateReturn&) = delete;
  LateReturn& operator=(const LateReturn&) = delete;

  /// More pages, for which room is held.
  void Begin(const std::vector<pages::DevicePage>& pages);
  /// Waits until all of them are back; what had failed is tried once more. A page that has been
  /// freed meanwhile is no error. Errors: the driver's or the spill file's; what is not back stays
  /// away with its room, and the call may be repeated.
  absl::Status Finish();
  /// The same for the pages that the range touches, which come before the others now.
  absl::Status Await(const pages::ColdRange& range);
  /// Stops after the page that is on its way; the others stay away and give their room back.
  void Stop();
  /// Whether anything is not back.
  bool pending() const { return count_.load(std::memory_order_acquire) > 0; }
  /// How often Await had to wait.
  int64_t waits() const { return waits_.load(std::memory_order_relaxed); }

 private:
  using Address = pages::cuda::DevicePointer;
  struct Place {
    Address at = 0;
    Address end = 0;
    pages::cuda::Handle token = 0;
  };

  void Work();
  void Join() ABSL_EXCLUSIVE_LOCKS_REQUIRED(finish_mu_);
  absl::Status BringBack(pages::cuda::Handle token);
  /// The same of one in the queue, with the lock let go meanwhile.
  absl::Status Fetch(const Place& page) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::optional<Place> Front() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::optional<Place> FirstWithin(const pages::ColdRange& range)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  /// Idempotent: two that wait for the same page may both bring it back.
  void Arrived(Address at) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void PutNext(Address at) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  pages::DevicePages& pages_;
  /// Of `queue_`; acquire and release: who sees 0 sees the pages.
  std::atomic<size_t> count_{0};
  std::atomic<int64_t> waits_{0};     // relaxed: a figure
  std::atomic<bool> started_{false};  // there is a thread to join
  /// Taken before mu_. Held while pages are copied: whoever else comes has to wait for them anyway.
  absl::Mutex finish_mu_;
  absl::Mutex mu_;
  absl::CondVar arrived_;                                 // one of them, or the thread has ended
  std::deque<Address> queue_ ABSL_GUARDED_BY(mu_);        // the first is on its way
  std::map<Address, Place> places_ ABSL_GUARDED_BY(mu_);  // of the same pages
  bool running_ ABSL_GUARDED_BY(mu_) = false;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_ ABSL_GUARDED_BY(finish_mu_);
};

}  // namespace tide::runtime

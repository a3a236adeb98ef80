// Pages of a resumed job that come back while its next iteration already runs.
#pragma once

#include <atomic>
#include <deque>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "pages/device_pages.h"

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
  void Begin(const std::vector<pages::cuda::Handle>& tokens);
  /// Waits until all of them are back; what had failed is tried once more. A page that has been
  /// freed meanwhile is no error. Errors: the driver's or the spill file's; what is not back stays
  /// away with its room, and the call may be repeated.
  absl::Status Finish();
  /// Stops after the page that is on its way; the others stay away and give their room back.
  void Stop();
  /// Whether anything is not back.
  bool pending() const { return count_.load(std::memory_order_acquire) > 0; }

 private:
  void Work();
  void Join() ABSL_EXCLUSIVE_LOCKS_REQUIRED(finish_mu_);
  absl::Status BringBack(pages::cuda::Handle token);

  pages::DevicePages& pages_;
  /// Of `tokens_`; acquire and release: who sees 0 sees the pages.
  std::atomic<size_t> count_{0};
  std::atomic<bool> started_{false};  // there is a thread to join
  /// Taken before mu_. Held while pages are copied: whoever else comes has to wait for them anyway.
  absl::Mutex finish_mu_;
  absl::Mutex mu_;
  std::deque<pages::cuda::Handle> tokens_ ABSL_GUARDED_BY(mu_);  // the first is on its way
  bool running_ ABSL_GUARDED_BY(mu_) = false;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_ ABSL_GUARDED_BY(finish_mu_);
};

}  // namespace tide::runtime

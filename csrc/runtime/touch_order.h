// In which order an iteration touches what it has on a device, before its first backward.
#pragma once

#include <atomic>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "pages/device_plan.h"

namespace tide::runtime {

/// Thread-safe. Only what was seen to be touched first by an operator is in the order: the rest may
/// be used by something that nobody sees.
class TouchOrder {
 public:
  /// An iteration begins, and these ranges are watched in it.
  void Watch(const std::vector<pages::ColdRange>& ranges);
  bool watching() const { return watching_.load(std::memory_order_relaxed); }
  /// An operator is about to use a range. Costs a look-up; does nothing while none is watched.
  void Touch(pages::cuda::DevicePointer at);
  /// From here on backward decides who is first: what was seen becomes the order. True where an
  /// iteration was watched until now.
  bool EndForward();
  /// The iteration ended without a backward: what was learnt before stays.
  void Forget();
  /// Those of `ranges` that are in the order, first touched first.
  std::vector<pages::ColdRange> Ordered(const std::vector<pages::ColdRange>& ranges) const;

 private:
  struct Touched {
    Bytes size;
    int64_t position = 0;  // from 1 on; 0: not touched
  };
  using Ranges = std::unordered_map<pages::cuda::DevicePointer, Touched>;

  std::atomic<bool> watching_{false};  // relaxed: who sees it late touches one range more or less
  mutable absl::Mutex mu_;
  Ranges watched_ ABSL_GUARDED_BY(mu_);
  Ranges learnt_ ABSL_GUARDED_BY(mu_);
  int64_t touched_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace tide::runtime

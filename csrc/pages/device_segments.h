// Device memory for an allocator that knows addresses only, as cudaMalloc gives them: each piece is
// one of our pages, at an address of its own, and moves as a whole.
#pragma once

#include <map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "pages/cuda_driver.h"
#include "pages/device_pages.h"

namespace tide::pages {

/// Thread-safe. No lock is held during a driver call; the allocator above holds its own.
class DeviceSegments {
 public:
  /// Both borrowed, for ever.
  DeviceSegments(const cuda::Driver& driver, DevicePages& pages);

  /// As cudaMalloc on `device`: accessible there and to every device that can reach it. The result
  /// is the driver's; on an error nothing is left behind.
  cuda::Result Allocate(int device, size_t size, cuda::DevicePointer* out);
  /// As cudaFree: waits for the device first, since what runs there may use the memory. kNotFound:
  /// not one of ours. After another error the call may be repeated and goes on where it stopped.
  cuda::Result Free(cuda::DevicePointer at);

 private:
  struct Segment {
    int device = 0;
    size_t size = 0;
    cuda::Handle token = 0;  // 0: its physical memory has been given back
    bool mapped = false;
  };
  cuda::Result Fill(Segment* segment, cuda::DevicePointer at);
  cuda::Result Empty(Segment* segment, cuda::DevicePointer at);
  void RetryLeftovers();
  cuda::Result GrantAccess(const Segment& segment, cuda::DevicePointer at);

  const cuda::Driver& driver_;
  DevicePages& pages_;
  std::vector<std::vector<int>> peers_;  // of each device, those that reach its memory
  absl::Mutex mu_;
  std::map<cuda::DevicePointer, Segment> segments_ ABSL_GUARDED_BY(mu_);
  /// Of requests that failed, what the driver did not take back at once: tried again later.
  std::map<cuda::DevicePointer, Segment> leftovers_ ABSL_GUARDED_BY(mu_);
};

}  // namespace tide::pages

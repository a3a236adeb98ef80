// Shares of a device's multiprocessors: streams whose kernels run on some of them (green contexts).
#pragma once

#include <map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "pages/cuda_driver.h"

namespace tide::pages {

struct DeviceShare {
  cuda::Stream stream = nullptr;
  int multiprocessors = 0;  // the driver rounds up
};

/// A small set of streams, made when they are first asked for and kept: a context cannot change,
/// and memory is the same in all of them. Thread-safe.
class DeviceShares {
 public:
  /// Borrowed, for ever.
  explicit DeviceShares(const cuda::Driver& driver) : driver_(driver) {}

  /// One that waits for no other stream, on `percent` (1 to 99) of the device. Errors:
  /// Unimplemented where the driver offers none, InvalidArgument for the percentage, the driver's.
  absl::StatusOr<DeviceShare> Share(int device, int percent);
  /// How many multiprocessors could be shared; makes nothing. Errors: as Share.
  absl::StatusOr<int> Shareable(int device) const;

 private:
  absl::StatusOr<DeviceShare> Make(int device, int percent);

  const cuda::Driver& driver_;
  absl::Mutex mu_;  // held while one is made, which is once a share
  std::map<std::pair<int, int>, DeviceShare> shares_ ABSL_GUARDED_BY(mu_);
};

}  // namespace tide::pages

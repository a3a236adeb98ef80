#include "pages/device_segments.h"

#include <algorithm>

namespace tide::pages {

DeviceSegments::DeviceSegments(const cuda::Driver& driver, DevicePages& pages)
    : driver_(driver), pages_(pages), peers_(driver.device_count()) {
  using CanAccess = cuda::Result (*)(int*, int, int);
  auto can_access = reinterpret_cast<CanAccess>(driver.Symbol("cuDeviceCanAccessPeer"));
  for (int device = 0; can_access != nullptr && device < driver.device_count(); ++device) {
    for (int other = 0; other < driver.device_count(); ++other) {
      int reaches = 0;
      if (other == device || can_access(&reaches, other, device) != cuda::kSuccess) continue;
      if (reaches != 0) peers_[device].push_back(other);
    }
  }
}

cuda::Result DeviceSegments::GrantAccess(const Segment& segment, cuda::DevicePointer at) {
  // cudaMalloc's memory becomes open to peers by cudaDeviceEnablePeerAccess, which does nothing for
  // memory that is mapped like this: it has to be open from the start.
  std::vector<cuda::AccessDescriptor> access(1);
  access[0].location.id = segment.device;
  for (int peer : peers_[segment.device]) {
    access.emplace_back();
    access.back().location.id = peer;
  }
  const cuda::Result result = pages_.SetAccess(at, segment.size, access.data(), access.size());
  if (result == cuda::kSuccess || access.size() == 1) return result;
  return pages_.SetAccess(at, segment.size, access.data(), 1);
}

cuda::Result DeviceSegments::Fill(Segment* segment, cuda::DevicePointer at) {
  cuda::AllocationProperties properties;
  properties.location.id = segment->device;
  cuda::Result result = pages_.Create(&segment->token, segment->size, &properties, 0);
  if (result != cuda::kSuccess) return result;
  result = pages_.Map(at, segment->size, 0, segment->token, 0);
  if (result != cuda::kSuccess) return result;
  segment->mapped = true;
  return GrantAccess(*segment, at);
}

cuda::Result DeviceSegments::Empty(Segment* segment, cuda::DevicePointer at) {
  cuda::Result result = cuda::kSuccess;
  if (segment->mapped) result = pages_.Unmap(at, segment->size);
  if (result != cuda::kSuccess) return result;
  segment->mapped = false;
  if (segment->token != 0) result = pages_.Release(segment->token);
  if (result != cuda::kSuccess) return result;
  segment->token = 0;
  return driver_.calls().address_free(at, segment->size);
}

cuda::Result DeviceSegments::Allocate(int device, size_t size, cuda::DevicePointer* out) {
  *out = 0;
  if (device < 0 || device >= driver_.device_count()) return cuda::kInvalidDevice;
  if (size == 0) return cuda::kSuccess;  // as cudaMalloc
  const cuda::ScopedContext context(driver_, device);
  if (!context.status().ok()) return cuda::kInvalidContext;
  RetryLeftovers();
  cuda::AllocationProperties properties;
  properties.location.id = device;
  const auto granularity = driver_.Granularity(properties);
  if (!granularity.ok()) return cuda::kNotSupported;
  // Slots of the spill file are of kPage, so that segments of its multiples can wait there.
  const size_t unit = std::max(granularity->size(), kPage.size());
  Segment segment;
  segment.device = device;
  if (size > SIZE_MAX - unit) return cuda::kOutOfMemory;
  segment.size = (size + unit - 1) / unit * unit;
  cuda::DevicePointer at = 0;
  cuda::Result result = driver_.calls().address_reserve(&at, segment.size, 0, 0, 0);
  if (result != cuda::kSuccess) return result;
  result = Fill(&segment, at);
  const bool undone = result != cuda::kSuccess && Empty(&segment, at) == cuda::kSuccess;
  absl::MutexLock lock(&mu_);
  if (result == cuda::kSuccess) {
    segments_[at] = segment;
    *out = at;
  } else if (!undone) {
    leftovers_[at] = segment;
  }
  return result;
}

void DeviceSegments::RetryLeftovers() {
  std::map<cuda::DevicePointer, Segment> all;
  {
    absl::MutexLock lock(&mu_);
    all.swap(leftovers_);
  }
  for (auto& [at, segment] : all) {
    if (Empty(&segment, at) == cuda::kSuccess) continue;
    absl::MutexLock lock(&mu_);
    leftovers_[at] = segment;
  }
}

cuda::Result DeviceSegments::Free(cuda::DevicePointer at) {
  Segment segment;
  {
    absl::MutexLock lock(&mu_);
    auto it = segments_.find(at);
    if (it == segments_.end()) return cuda::kNotFound;
    segment = it->second;
    segments_.erase(it);  // nobody else frees it meanwhile
  }
  cuda::Result result = cuda::kInvalidContext;
  {
    const cuda::ScopedContext context(driver_, segment.device);
    if (context.status().ok()) result = driver_.calls().context_synchronize();
    if (result == cuda::kSuccess) result = Empty(&segment, at);
  }
  if (result == cuda::kSuccess) return result;
  absl::MutexLock lock(&mu_);
  segments_[at] = segment;
  return result;
}

}  // namespace tide::pages

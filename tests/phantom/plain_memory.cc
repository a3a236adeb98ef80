// cuMemAlloc, pinned host memory and legacy handles between processes, on the same tables.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "phantom/memory.h"
#include "phantom/settings.h"

namespace phantom {
namespace {

constexpr cuda::Result kAlreadyRegistered = 712;
constexpr cuda::Result kNotRegistered = 713;

struct IpcHandle {
  char magic[8];
  int pid;
  int fd;
};

}  // namespace

cuda::Result Memory::MapPlain(std::shared_ptr<Physical> physical, Address* out) {
  if (auto error = ReserveLocked(physical->size, 0, out)) return error;
  const size_t size = physical->size;
  mappings_[*out] = {size, std::move(physical), /*accessible=*/true, /*plain=*/true};
  return cuda::kSuccess;
}

cuda::Result Memory::Allocate(int device, size_t size, Address* out) {
  *out = 0;
  if (size == 0) return cuda::kSuccess;
  std::shared_ptr<Physical> physical;
  const size_t rounded = (size + kGranularity - 1) & ~(kGranularity - 1);
  if (auto error = MakePhysical(device, rounded, false, true, &physical)) return error;
  std::lock_guard<std::mutex> lock(mu);
  return MapPlain(std::move(physical), out);
}

cuda::Result Memory::Free(Address at) {
  if (at == 0) return cuda::kSuccess;
  std::shared_ptr<Physical> last;
  std::lock_guard<std::mutex> lock(mu);
  auto it = mappings_.find(at);
  if (it == mappings_.end() || !it->second.plain) {
    Complain("free of %llx, which is no allocation", static_cast<unsigned long long>(at));
    return cuda::kInvalidValue;
  }
  last = it->second.physical;
  munmap(reinterpret_cast<void*>(at), it->second.size);
  reservations_.erase(at);
  mappings_.erase(it);
  return cuda::kSuccess;
}

cuda::Result Memory::AllocateHost(size_t size, void** out) {
  *out = nullptr;
  if (size == 0) return cuda::kSuccess;
  void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return cuda::kOutOfMemory;
  std::lock_guard<std::mutex> lock(mu);
  pinned_[reinterpret_cast<Address>(at)] = {size, true};
  *out = at;
  return cuda::kSuccess;
}

cuda::Result Memory::FreeHost(void* at) {
  if (at == nullptr) return cuda::kSuccess;
  std::lock_guard<std::mutex> lock(mu);
  auto it = pinned_.find(reinterpret_cast<Address>(at));
  if (it == pinned_.end() || !it->second.ours) return cuda::kInvalidValue;
  munmap(at, it->second.size);
  pinned_.erase(it);
  return cuda::kSuccess;
}

cuda::Result Memory::RegisterHost(void* at, size_t size) {
  std::lock_guard<std::mutex> lock(mu);
  const bool added = pinned_.try_emplace(reinterpret_cast<Address>(at), Pinned{size, false}).second;
  return added ? cuda::kSuccess : kAlreadyRegistered;
}

cuda::Result Memory::UnregisterHost(void* at) {
  std::lock_guard<std::mutex> lock(mu);
  return pinned_.erase(reinterpret_cast<Address>(at)) != 0 ? cuda::kSuccess : kNotRegistered;
}

bool Memory::IsPinned(Address at, size_t size) const {
  auto it = pinned_.upper_bound(at);
  if (it == pinned_.begin()) return false;
  --it;
  return at + size <= it->first + it->second.size;
}

Kind Memory::Classify(Address at, Address* base, size_t* size, int* device) {
  std::lock_guard<std::mutex> lock(mu);
  *device = 0;
  if (const Mapping* mapping = At(at, base)) {
    *size = mapping->size;
    *device = mapping->physical->device;
    return Kind::kDevice;
  }
  if (!IsPinned(at, 1)) return Kind::kUnknown;
  auto it = --pinned_.upper_bound(at);
  *base = it->first;
  *size = it->second.size;
  return Kind::kPinnedHost;
}

cuda::Result Memory::IpcGet(Address at, void* handle_64) {
  std::lock_guard<std::mutex> lock(mu);
  Address base = 0;
  const Mapping* mapping = At(at, &base);
  if (mapping == nullptr || !mapping->plain) {
    Complain("a legacy handle works for cuMemAlloc memory only");
    return cuda::kInvalidValue;
  }
  const IpcHandle handle = {"phantom", static_cast<int>(getpid()), mapping->physical->fd};
  std::memset(handle_64, 0, 64);
  std::memcpy(handle_64, &handle, sizeof handle);
  return cuda::kSuccess;
}

cuda::Result Memory::IpcOpen(const void* handle_64, Address* out) {
  IpcHandle handle;
  std::memcpy(&handle, handle_64, sizeof handle);
  if (std::strncmp(handle.magic, "phantom", sizeof handle.magic) != 0) return cuda::kInvalidValue;
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%d/fd/%d", handle.pid, handle.fd);
  const int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return cuda::kInvalidValue;
  std::lock_guard<std::mutex> lock(mu);
  std::shared_ptr<Physical> physical = Adopt(fd);
  if (physical == nullptr) return cuda::kInvalidValue;
  return MapPlain(std::move(physical), out);
}

}  // namespace phantom

#include "phantom/memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "phantom/settings.h"

namespace phantom {

Memory& GetMemory() {
  static Memory& memory = *new Memory;
  return memory;
}

Physical::~Physical() {
  if (fd >= 0) close(fd);
  if (entry.index >= 0) GetMemory().ledger(device).Release(entry);
}

cuda::Result Memory::Init() {
  std::lock_guard<std::mutex> lock(mu);
  if (initialised_) {
    // a forked child has no device, as with a driver
    return init_result_ == cuda::kSuccess && pid_ != getpid() ? cuda::kNotInitialized
                                                              : init_result_;
  }
  initialised_ = true;
  pid_ = getpid();
  rlimit files;  // each physical allocation is a descriptor
  if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  const int count = GetSettings().devices;
  if (count <= 0) init_result_ = cuda::kNoDevice;
  for (int i = 0; i < count && init_result_ == cuda::kSuccess; ++i) {
    ledgers_.push_back(Ledger::Attach(i));
    if (ledgers_.back() == nullptr) init_result_ = cuda::kOutOfMemory;
  }
  if (init_result_ != cuda::kSuccess) ledgers_.clear();
  return init_result_;
}

void Memory::Detach() {
  if (pid_ != getpid()) return;
  for (auto& ledger : ledgers_) ledger->Leave();
}

bool Memory::IsOwn() const { return pid_ == getpid(); }

// ---- physical memory ----

cuda::Result Memory::MakePhysical(int device, size_t size, bool on_host, bool exportable,
                                  std::shared_ptr<Physical>* out) {
  auto physical = std::make_shared<Physical>();
  physical->device = device;
  physical->on_host = on_host;
  physical->exportable = exportable;
  physical->size = size;
  if (!on_host && !ledger(device).Charge(size, &physical->entry)) return cuda::kOutOfMemory;
  char name[96];
  std::snprintf(name, sizeof name, "tide-phantom-%d-%d-%d-%llu", device, on_host ? 1 : 0,
                physical->entry.index, static_cast<unsigned long long>(physical->entry.id));
  physical->fd = memfd_create(name, MFD_CLOEXEC);
  if (physical->fd < 0 || ftruncate(physical->fd, static_cast<off_t>(size)) != 0) {
    Complain("memfd: %s", std::strerror(errno));
    return cuda::kOperatingSystem;
  }
  *out = std::move(physical);
  return cuda::kSuccess;
}

std::shared_ptr<Physical> Memory::Adopt(int fd) {
  char link[64], name[128];
  std::snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, name, sizeof name - 1);
  struct stat status;
  int device = 0, on_host = 0, index = 0;
  unsigned long long id = 0;
  if (length > 0) name[length] = '\0';
  if (length <= 0 || fstat(fd, &status) != 0 ||
      std::sscanf(name, "/memfd:tide-phantom-%d-%d-%d-%llu", &device, &on_host, &index, &id) != 4 ||
      device >= device_count()) {
    close(fd);
    return nullptr;
  }
  struct stat other;
  auto same = [&](const std::shared_ptr<Physical>& physical) {
    return fstat(physical->fd, &other) == 0 && other.st_ino == status.st_ino;
  };
  for (auto& [handle, record] : handles_) {
    if (same(record.physical)) return close(fd), record.physical;
  }
  for (auto& [at, mapping] : mappings_) {
    if (same(mapping.physical)) return close(fd), mapping.physical;
  }
  auto physical = std::make_shared<Physical>();
  physical->device = device;
  physical->on_host = on_host != 0;
  physical->exportable = true;
  physical->size = static_cast<size_t>(status.st_size);
  physical->fd = fd;
  const LedgerEntry entry{index, id};
  if (!physical->on_host) {
    if (!ledger(device).Share(entry)) return nullptr;
    physical->entry = entry;
  }
  return physical;
}

cuda::Handle Memory::AddHandle(std::shared_ptr<Physical> physical) {
  handles_[next_handle_] = {std::move(physical), 1};
  return next_handle_++;
}

cuda::Result Memory::Create(const cuda::AllocationProperties& properties, size_t size,
                            cuda::Handle* out) {
  const cuda::Location& location = properties.location;
  if (properties.type != cuda::kTypePinned || size == 0 || size % kGranularity != 0) {
    Complain("cuMemCreate: type %d, size %zu", properties.type, size);
    return cuda::kInvalidValue;
  }
  const bool on_host = location.type == cuda::kLocationHostNuma;
  if (on_host && !GetSettings().host_numa) return cuda::kNotSupported;
  if (!on_host && location.type != cuda::kLocationDevice) return cuda::kNotSupported;
  if (!on_host && (location.id < 0 || location.id >= device_count())) return cuda::kInvalidDevice;
  if ((properties.handle_types & ~cuda::kHandleFileDescriptor) != 0) return cuda::kNotPermitted;
  std::shared_ptr<Physical> physical;
  const bool exportable = properties.handle_types != 0;
  const int device = on_host ? 0 : location.id;
  if (auto error = MakePhysical(device, size, on_host, exportable, &physical)) return error;
  std::lock_guard<std::mutex> lock(mu);
  *out = AddHandle(std::move(physical));
  return cuda::kSuccess;
}

cuda::Result Memory::Release(cuda::Handle handle) {
  std::shared_ptr<Physical> last;  // dies without the lock
  std::lock_guard<std::mutex> lock(mu);
  auto it = handles_.find(handle);
  if (it == handles_.end()) {
    Complain("cuMemRelease of an unknown handle");
    return cuda::kInvalidValue;
  }
  if (--it->second.references == 0) {
    last = it->second.physical;
    handles_.erase(it);
  }
  return cuda::kSuccess;
}

cuda::Result Memory::Retain(Address at, cuda::Handle* out) {
  std::lock_guard<std::mutex> lock(mu);
  Address base = 0;
  const Mapping* mapping = At(at, &base);
  if (mapping == nullptr) return cuda::kInvalidValue;
  for (auto& [handle, record] : handles_) {
    if (record.physical != mapping->physical) continue;
    ++record.references;
    *out = handle;
    return cuda::kSuccess;
  }
  *out = AddHandle(mapping->physical);
  return cuda::kSuccess;
}

cuda::Result Memory::Export(cuda::Handle handle, int* fd) {
  std::lock_guard<std::mutex> lock(mu);
  auto it = handles_.find(handle);
  if (it == handles_.end() || !it->second.physical->exportable) {
    Complain("cuMemExportToShareableHandle of a handle that was not created for it");
    return cuda::kInvalidValue;
  }
  *fd = fcntl(it->second.physical->fd, F_DUPFD_CLOEXEC, 0);
  return *fd < 0 ? cuda::kOperatingSystem : cuda::kSuccess;
}

cuda::Result Memory::Import(int fd, cuda::Handle* out) {
  std::lock_guard<std::mutex> lock(mu);
  const int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  std::shared_ptr<Physical> physical = own < 0 ? nullptr : Adopt(own);
  if (physical == nullptr) return cuda::kInvalidValue;
  *out = AddHandle(std::move(physical));
  return cuda::kSuccess;
}

cuda::Result Memory::Properties(cuda::Handle handle, cuda::AllocationProperties* out) {
  std::lock_guard<std::mutex> lock(mu);
  auto it = handles_.find(handle);
  if (it == handles_.end()) return cuda::kInvalidValue;
  const Physical& physical = *it->second.physical;
  *out = {};
  out->location = {physical.on_host ? cuda::kLocationHostNuma : cuda::kLocationDevice,
                   physical.device};
  out->handle_types = physical.exportable ? cuda::kHandleFileDescriptor : 0;
  return cuda::kSuccess;
}

// ---- addresses ----

Memory::Reservations::const_iterator Memory::FindReservation(Address at) const {
  auto it = reservations_.upper_bound(at);
  if (it == reservations_.begin()) return reservations_.end();
  --it;
  return at < it->first + it->second ? it : reservations_.end();
}

const Mapping* Memory::At(Address at, Address* base) const {
  auto it = mappings_.upper_bound(at);
  if (it == mappings_.begin()) return nullptr;
  --it;
  *base = it->first;
  return at < it->first + it->second.size ? &it->second : nullptr;
}

cuda::Result Memory::ReserveLocked(size_t size, Address hint, Address* out) {
  // PROT_NONE for ever: a host access to device memory faults, as on a discrete GPU.
  char* raw = static_cast<char*>(mmap(reinterpret_cast<void*>(hint), size + kGranularity, PROT_NONE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (raw == MAP_FAILED) return cuda::kOutOfMemory;
  const Address start = reinterpret_cast<Address>(raw);
  const Address base = (start + kGranularity - 1) & ~(kGranularity - 1);
  if (base > start) munmap(raw, base - start);
  if (const size_t tail = start + kGranularity - base; tail > 0) {
    munmap(reinterpret_cast<void*>(base + size), tail);
  }
  reservations_[base] = size;
  *out = base;
  return cuda::kSuccess;
}

cuda::Result Memory::Reserve(size_t size, size_t alignment, Address hint, Address* out) {
  if (size == 0 || size % kGranularity != 0 || (alignment & (alignment - 1)) != 0) {
    Complain("cuMemAddressReserve: size %zu, alignment %zu", size, alignment);
    return cuda::kInvalidValue;
  }
  std::lock_guard<std::mutex> lock(mu);
  return ReserveLocked(size, hint, out);
}

cuda::Result Memory::FreeAddress(Address at, size_t size) {
  std::lock_guard<std::mutex> lock(mu);
  auto it = reservations_.find(at);
  if (it == reservations_.end() || it->second != size) {
    Complain("cuMemAddressFree of a range that was not reserved as such");
    return cuda::kInvalidValue;
  }
  auto mapped = mappings_.lower_bound(at);
  if (mapped != mappings_.end() && mapped->first < at + size) {
    Complain("cuMemAddressFree while something is mapped there");
    return cuda::kInvalidValue;
  }
  munmap(reinterpret_cast<void*>(at), size);
  reservations_.erase(it);
  return cuda::kSuccess;
}

cuda::Result Memory::Map(Address at, size_t size, size_t offset, cuda::Handle handle) {
  std::lock_guard<std::mutex> lock(mu);
  auto it = handles_.find(handle);
  const char* why = nullptr;
  cuda::Result error = cuda::kInvalidValue;
  Address base = 0;
  auto reservation = FindReservation(at);
  auto next = mappings_.lower_bound(at);
  if (it == handles_.end()) {
    why = "an unknown handle";
  } else if (offset != 0) {
    why = "an offset that is not 0";
    error = cuda::kNotSupported;
  } else if (size > it->second.physical->size) {
    why = "more than the handle has";
    error = cuda::kNotSupported;
  } else if (size == 0 || size % kGranularity != 0 || at % kGranularity != 0) {
    why = "a size or address that is not a multiple of the granularity";
  } else if (reservation == reservations_.end() ||
             at + size > reservation->first + reservation->second) {
    why = "an address outside of a reservation";
  } else if (At(at, &base) != nullptr || (next != mappings_.end() && next->first < at + size)) {
    why = "an address that is mapped already";
  }
  if (why != nullptr) {
    Complain("cuMemMap of %s", why);
    return error;
  }
  mappings_[at] = {size, it->second.physical};
  return cuda::kSuccess;
}

bool Memory::WholeMappings(Address at, size_t size) const {
  if (size == 0) return false;
  for (const Address end = at + size; at < end;) {
    auto it = mappings_.find(at);
    if (it == mappings_.end() || at + it->second.size > end) return false;
    at += it->second.size;
  }
  return true;
}

cuda::Result Memory::Unmap(Address at, size_t size) {
  std::vector<std::shared_ptr<Physical>> dropped;  // die without the lock
  std::lock_guard<std::mutex> lock(mu);
  if (!WholeMappings(at, size)) {
    Complain("cuMemUnmap of a range that is not made of whole mappings");
    return cuda::kInvalidValue;
  }
  for (auto it = mappings_.find(at); it != mappings_.end() && it->first < at + size;) {
    dropped.push_back(it->second.physical);
    it = mappings_.erase(it);
  }
  return cuda::kSuccess;
}

cuda::Result Memory::SetAccess(Address at, size_t size, const cuda::AccessDescriptor* access,
                               size_t count) {
  std::lock_guard<std::mutex> lock(mu);
  if (!WholeMappings(at, size)) {
    Complain("cuMemSetAccess of a range that is not made of whole mappings");
    return cuda::kInvalidValue;
  }
  for (size_t i = 0; i < count; ++i) {
    const bool known = access[i].location.type == cuda::kLocationDevice &&
                       access[i].location.id >= 0 && access[i].location.id < device_count();
    if (!known) return cuda::kInvalidValue;
  }
  for (auto it = mappings_.find(at); it != mappings_.end() && it->first < at + size; ++it) {
    for (size_t i = 0; i < count; ++i) {
      it->second.accessible = access[i].flags == cuda::kAccessReadWrite;
    }
  }
  return cuda::kSuccess;
}

}  // namespace phantom

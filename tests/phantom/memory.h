// Device memory of this process: physical handles, reserved addresses, what is mapped where.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "pages/cuda_driver.h"
#include "phantom/ledger.h"

namespace phantom {

namespace cuda = tide::pages::cuda;
using Address = uint64_t;

inline constexpr size_t kGranularity = size_t{2} << 20;

/// Memory of a device (charged to its ledger) or of the host, in a memfd.
struct Physical {
  ~Physical();
  int device = 0;
  bool on_host = false;
  bool exportable = false;
  size_t size = 0;
  int fd = -1;
  LedgerEntry entry;
};

struct Mapping {
  size_t size;
  std::shared_ptr<Physical> physical;
  bool accessible = false;
  bool plain = false;  // of cuMemAlloc: freed as one
};

enum class Kind { kUnknown, kPinnedHost, kDevice };

/// Rules are those of cuda.h 13; every refusal says why on stderr. All functions with a lock
/// argument need the engine's lock held, the others take it.
class Memory {
 public:
  std::mutex mu;  // one lock for the whole engine, streams too

  cuda::Result Init();
  int device_count() const { return static_cast<int>(ledgers_.size()); }
  Ledger& ledger(int device) { return *ledgers_[device]; }
  /// Leaves the ledgers; at exit.
  void Detach();
  /// False in a forked child.
  bool IsOwn() const;

  // virtual memory
  cuda::Result Reserve(size_t size, size_t alignment, Address hint, Address* out);
  cuda::Result FreeAddress(Address at, size_t size);
  cuda::Result Create(const cuda::AllocationProperties& properties, size_t size, cuda::Handle* out);
  cuda::Result Release(cuda::Handle handle);
  cuda::Result Map(Address at, size_t size, size_t offset, cuda::Handle handle);
  cuda::Result Unmap(Address at, size_t size);
  cuda::Result SetAccess(Address at, size_t size, const cuda::AccessDescriptor* access,
                         size_t count);
  cuda::Result Retain(Address at, cuda::Handle* out);
  cuda::Result Export(cuda::Handle handle, int* fd);
  cuda::Result Import(int fd, cuda::Handle* out);
  cuda::Result Properties(cuda::Handle handle, cuda::AllocationProperties* out);

  // plain memory; the caller has waited for the device before a free
  cuda::Result Allocate(int device, size_t size, Address* out);
  cuda::Result Free(Address at);
  cuda::Result AllocateHost(size_t size, void** out);
  cuda::Result FreeHost(void* at);
  cuda::Result RegisterHost(void* at, size_t size);
  cuda::Result UnregisterHost(void* at);
  Kind Classify(Address at, Address* base, size_t* size, int* device);
  cuda::Result IpcGet(Address at, void* handle_64);
  cuda::Result IpcOpen(const void* handle_64, Address* out);

  // with `mu` held
  bool IsDevice(Address at) const { return FindReservation(at) != reservations_.end(); }
  bool IsPinned(Address at, size_t size) const;
  /// The mapping that covers `at`, or null.
  const Mapping* At(Address at, Address* base) const;
  size_t handle_count() const { return handles_.size(); }
  size_t mapping_count() const { return mappings_.size(); }
  size_t reservation_count() const { return reservations_.size(); }

 private:
  struct HandleRecord {
    std::shared_ptr<Physical> physical;
    int references;
  };
  using Reservations = std::map<Address, size_t>;
  using Mappings = std::map<Address, Mapping>;

  cuda::Result MakePhysical(int device, size_t size, bool on_host, bool exportable,
                            std::shared_ptr<Physical>* out);
  /// Physical memory behind a descriptor that some process exported; takes `fd`.
  std::shared_ptr<Physical> Adopt(int fd);
  cuda::Result ReserveLocked(size_t size, Address hint, Address* out);
  cuda::Result MapPlain(std::shared_ptr<Physical> physical, Address* out);
  Reservations::const_iterator FindReservation(Address at) const;
  /// Whether [at, at + size) is made of whole mappings without holes.
  bool WholeMappings(Address at, size_t size) const;
  cuda::Handle AddHandle(std::shared_ptr<Physical> physical);

  std::vector<std::unique_ptr<Ledger>> ledgers_;
  int pid_ = 0;
  bool initialised_ = false;
  cuda::Result init_result_ = cuda::kSuccess;
  std::unordered_map<cuda::Handle, HandleRecord> handles_;
  cuda::Handle next_handle_ = 0x50480000001;
  Reservations reservations_;
  Mappings mappings_;
  struct Pinned {
    size_t size;
    bool ours;
  };
  std::map<Address, Pinned> pinned_;
};

Memory& GetMemory();

}  // namespace phantom

// The one place that knows NVIDIA's driver: its types, its numbers and its entry points, found at
// run time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/bytes.h"

namespace tide::pages::cuda {

// Binary interface of the driver (CUDA 12 and 13); tests/cpp/phantom compares it with cuda.h.
using Result = int;
using DevicePointer = unsigned long long;
using Handle = unsigned long long;  // of physical memory
using Context = void*;
using Stream = void*;
using Event = void*;

inline constexpr Result kSuccess = 0;
inline constexpr Result kInvalidValue = 1;
inline constexpr Result kOutOfMemory = 2;
inline constexpr Result kNotInitialized = 3;
inline constexpr Result kNoDevice = 100;
inline constexpr Result kInvalidDevice = 101;
inline constexpr Result kInvalidContext = 201;
inline constexpr Result kOperatingSystem = 304;
inline constexpr Result kInvalidHandle = 400;
inline constexpr Result kNotFound = 500;
inline constexpr Result kNotReady = 600;
inline constexpr Result kIllegalAddress = 700;
inline constexpr Result kNotPermitted = 800;
inline constexpr Result kNotSupported = 801;
inline constexpr Result kCaptureUnsupported = 900;

inline constexpr int kLocationDevice = 1;
inline constexpr int kLocationHostNuma = 3;
inline constexpr int kTypePinned = 1;
inline constexpr int kHandleFileDescriptor = 1;
inline constexpr int kAccessReadWrite = 3;
inline constexpr int kAttributeHostNumaId = 134;
inline constexpr unsigned kEventWithoutTime = 2;       // CU_EVENT_DISABLE_TIMING
inline constexpr unsigned kStreamWaitsForNoOther = 1;  // CU_STREAM_NON_BLOCKING

struct Location {
  int type = kLocationDevice;
  int id = 0;
};
struct AllocationProperties {  // CUmemAllocationProp
  int type = kTypePinned;
  int handle_types = 0;
  Location location;
  void* win32_meta_data = nullptr;
  unsigned char flags[8] = {};
};
struct AccessDescriptor {  // CUmemAccessDesc
  Location location;
  int flags = kAccessReadWrite;
};

struct DeviceResource {  // CUdevResource, of multiprocessors
  int type = 0;
  unsigned char padding[92] = {};
  unsigned multiprocessors = 0;
  unsigned char rest[36] = {};
  void* next = nullptr;
};

/// Entry points under the names of cuda.h. All are there once Open has succeeded.
struct Calls {
  Result (*init)(unsigned);
  Result (*driver_version)(int*);
  Result (*device_count)(int*);
  Result (*device_name)(char*, int, int);
  Result (*device_uuid)(unsigned char*, int);
  Result (*device_attribute)(int*, int, int);
  Result (*primary_context_retain)(Context*, int);
  Result (*context_set)(Context);
  Result (*context_get)(Context*);
  Result (*context_synchronize)();
  Result (*error_name)(Result, const char**);
  Result (*memory_info)(size_t*, size_t*);
  Result (*granularity)(size_t*, const AllocationProperties*, int);
  Result (*address_reserve)(DevicePointer*, size_t, size_t, DevicePointer, unsigned long long);
  Result (*address_free)(DevicePointer, size_t);
  Result (*create)(Handle*, size_t, const AllocationProperties*, unsigned long long);
  Result (*release)(Handle);
  Result (*map)(DevicePointer, size_t, size_t, Handle, unsigned long long);
  Result (*unmap)(DevicePointer, size_t);
  Result (*set_access)(DevicePointer, size_t, const AccessDescriptor*, size_t);
  Result (*export_handle)(void*, Handle, int, unsigned long long);
  Result (*import_handle)(Handle*, void*, int);
  Result (*host_register)(void*, size_t, unsigned);
  Result (*host_unregister)(void*);
  Result (*copy_to_device)(DevicePointer, const void*, size_t);
  Result (*copy_to_host)(void*, DevicePointer, size_t);
  Result (*copy_on_device)(DevicePointer, DevicePointer, size_t);
  Result (*copy_to_device_on)(DevicePointer, const void*, size_t, Stream);
  Result (*fill_on)(DevicePointer, unsigned char, size_t, Stream);
  Result (*stream_create)(Stream*, unsigned);
  Result (*stream_synchronize)(Stream);
  Result (*event_create)(Event*, unsigned);
  Result (*event_record)(Event, Stream);
  Result (*event_synchronize)(Event);
};

/// An opened driver library. Thread-safe; lives as long as the process once something of it is
/// mapped, since unloading a driver is not supported.
class Driver {
 public:
  /// Loads `library` and initialises it. Errors: NotFound (no such library, or it lacks an entry
  /// point), Unavailable (it is there but has no device or does not start).
  static absl::StatusOr<std::unique_ptr<Driver>> Open(const std::string& library);

  const Calls& calls() const { return calls_; }
  int device_count() const { return device_count_; }
  int version() const { return version_; }  // 13000 is CUDA 13.0

  /// OK, or what the driver said: ResourceExhausted for out of memory, Unimplemented for what it
  /// does not offer, Internal for a device that has failed, InvalidArgument for the rest.
  absl::Status Check(Result result, absl::string_view what) const;

  std::string DeviceName(int device) const;
  /// "GPU-8-4-4-4-12", as nvidia-smi prints it.
  std::string DeviceUuid(int device) const;
  absl::StatusOr<Bytes> Granularity(const AllocationProperties& properties) const;

  /// Address of an entry point by the name of cuda.h, or null.
  void* Symbol(const char* name) const;
  /// What the driver's own look-up answers for it, which may differ from Symbol; null when it has
  /// none.
  void* LookUp(const char* name, int cuda_version) const;

 private:
  explicit Driver(void* library) : library_(library) {}
  absl::Status Load();

  void* const library_;  // never closed
  Calls calls_{};
  int device_count_ = 0;
  int version_ = 0;
};

/// Makes the device's primary context current on this thread and puts the previous one back. The
/// context stays retained: what we keep in it lives as long as the process.
class ScopedContext {
 public:
  ScopedContext(const Driver& driver, int device);
  ~ScopedContext();
  ScopedContext(const ScopedContext&) = delete;
  ScopedContext& operator=(const ScopedContext&) = delete;
  const absl::Status& status() const { return status_; }

 private:
  const Driver& driver_;
  bool changed_ = false;
  Context previous_ = nullptr;
  absl::Status status_;
};

}  // namespace tide::pages::cuda

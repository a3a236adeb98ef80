// The phantom driver: virtual memory, plain memory, copies. Virtual memory calls have three
// addresses each: for dlsym, for cuGetProcAddress and for the runtime's look-up.
#include <cstring>

#include "phantom/driver.h"
#include "phantom/settings.h"

using phantom::GetMemory;
using phantom::GetStreams;
using phantom::Kind;
using phantom::Streams;
using phantom::ToAddress;
namespace cuda = phantom::cuda;

/// Exports `name` and its two further addresses; each calls the body that follows.
#define VIRTUAL_MEMORY(name, parameters, arguments)                     \
  static cuda::Result name##_body parameters;                           \
  DRIVER name parameters { return name##_body arguments; }              \
  DRIVER name##_looked_up parameters { return name##_body arguments; }  \
  DRIVER name##_of_runtime parameters { return name##_body arguments; } \
  static cuda::Result name##_body parameters

VIRTUAL_MEMORY(cuMemAddressReserve,
               (cuda::DevicePointer * out, size_t size, size_t alignment, cuda::DevicePointer hint,
                unsigned long long flags),
               (out, size, alignment, hint, flags)) {
  ENTER("cuMemAddressReserve");
  if (auto error = GetMemory().Init()) return error;
  if (flags != 0) return cuda::kInvalidValue;
  phantom::Address at = 0;
  const cuda::Result result = GetMemory().Reserve(size, alignment, hint, &at);
  if (result == cuda::kSuccess) phantom::Trace("reserve", {* out = at, size});
  return result;
}
VIRTUAL_MEMORY(cuMemAddressFree, (cuda::DevicePointer at, size_t size), (at, size)) {
  ENTER("cuMemAddressFree");
  const cuda::Result result = GetMemory().FreeAddress(at, size);
  if (result == cuda::kSuccess) phantom::Trace("free", {at});
  return result;
}
VIRTUAL_MEMORY(cuMemCreate,
               (cuda::Handle * out, size_t size, const cuda::AllocationProperties* properties,
                unsigned long long flags),
               (out, size, properties, flags)) {
  ENTER("cuMemCreate");
  if (auto error = GetMemory().Init()) return error;
  if (flags != 0) return cuda::kInvalidValue;
  const cuda::Result result = GetMemory().Create(*properties, size, out);
  if (result == cuda::kSuccess) phantom::Trace("create", {*out, size});
  return result;
}
VIRTUAL_MEMORY(cuMemRelease, (cuda::Handle handle), (handle)) {
  ENTER("cuMemRelease");
  const cuda::Result result = GetMemory().Release(handle);
  if (result == cuda::kSuccess) phantom::Trace("release", {handle});
  return result;
}
VIRTUAL_MEMORY(cuMemMap,
               (cuda::DevicePointer at, size_t size, size_t offset, cuda::Handle handle,
                unsigned long long flags),
               (at, size, offset, handle, flags)) {
  ENTER("cuMemMap");
  if (flags != 0) return cuda::kInvalidValue;
  const cuda::Result result = GetMemory().Map(at, size, offset, handle);
  if (result == cuda::kSuccess) phantom::Trace("map", {at, size, handle});
  return result;
}
VIRTUAL_MEMORY(cuMemUnmap, (cuda::DevicePointer at, size_t size), (at, size)) {
  ENTER("cuMemUnmap");
  GetStreams().Unmapping(at, size);
  const cuda::Result result = GetMemory().Unmap(at, size);
  if (result == cuda::kSuccess) phantom::Trace("unmap", {at, size});
  return result;
}
VIRTUAL_MEMORY(cuMemSetAccess,
               (cuda::DevicePointer at, size_t size, const cuda::AccessDescriptor* access,
                size_t count),
               (at, size, access, count)) {
  ENTER("cuMemSetAccess");
  const cuda::Result result = GetMemory().SetAccess(at, size, access, count);
  if (result == cuda::kSuccess) phantom::Trace("access", {at, size});
  return result;
}
VIRTUAL_MEMORY(cuMemExportToShareableHandle,
               (void* out, cuda::Handle handle, int type, unsigned long long flags),
               (out, handle, type, flags)) {
  ENTER("cuMemExportToShareableHandle");
  if (type != cuda::kHandleFileDescriptor) return cuda::kNotSupported;
  return flags != 0 ? cuda::kInvalidValue : GetMemory().Export(handle, static_cast<int*>(out));
}
VIRTUAL_MEMORY(cuMemImportFromShareableHandle, (cuda::Handle * out, void* shared, int type),
               (out, shared, type)) {
  ENTER("cuMemImportFromShareableHandle");
  if (auto error = GetMemory().Init()) return error;
  if (type != cuda::kHandleFileDescriptor) return cuda::kNotSupported;
  return GetMemory().Import(static_cast<int>(reinterpret_cast<intptr_t>(shared)), out);
}

DRIVER cuMemGetAllocationGranularity(size_t* size, const cuda::AllocationProperties* properties,
                                     int) {
  ENTER("cuMemGetAllocationGranularity");
  const int type = properties->location.type;
  if (type != cuda::kLocationDevice && phantom::Attribute(141, 0) == 0) return cuda::kNotSupported;
  *size = phantom::kGranularity;
  return cuda::kSuccess;
}
DRIVER cuMemRetainAllocationHandle(cuda::Handle* out, void* at) {
  ENTER("cuMemRetainAllocationHandle");
  return GetMemory().Retain(ToAddress(at), out);
}
DRIVER cuMemGetAllocationPropertiesFromHandle(cuda::AllocationProperties* out,
                                              cuda::Handle handle) {
  return GetMemory().Properties(handle, out);
}

// ---- plain memory ----

DRIVER cuMemGetInfo_v2(size_t* free, size_t* total) {
  ENTER("cuMemGetInfo");
  if (auto error = GetMemory().Init()) return error;
  const auto figures = GetMemory().ledger(Streams::CurrentDevice()).Figures();
  *free = figures.capacity - figures.used;
  *total = figures.capacity;
  return cuda::kSuccess;
}
DRIVER cuMemAlloc_v2(cuda::DevicePointer* out, size_t size) {
  ENTER("cuMemAlloc");
  if (auto error = GetMemory().Init()) return error;
  phantom::Address at = 0;
  const cuda::Result result = GetMemory().Allocate(Streams::CurrentDevice(), size, &at);
  if (result == cuda::kSuccess) *out = at;
  return result;
}
DRIVER cuMemFree_v2(cuda::DevicePointer at) {
  ENTER("cuMemFree");
  GetStreams().SynchronizeDevice();  // a free waits for the device
  return GetMemory().Free(at);
}
DRIVER cuMemHostAlloc(void** out, size_t size, unsigned) {
  ENTER("cuMemHostAlloc");
  return GetMemory().AllocateHost(size, out);
}
DRIVER cuMemAllocHost_v2(void** out, size_t size) { return cuMemHostAlloc(out, size, 0); }
DRIVER cuMemFreeHost(void* at) {
  ENTER("cuMemFreeHost");
  GetStreams().SynchronizeDevice();
  return GetMemory().FreeHost(at);
}
DRIVER cuMemHostRegister_v2(void* at, size_t size, unsigned) {
  ENTER("cuMemHostRegister");
  return GetMemory().RegisterHost(at, size);
}
DRIVER cuMemHostUnregister(void* at) {
  ENTER("cuMemHostUnregister");
  return GetMemory().UnregisterHost(at);
}
DRIVER cuMemGetAddressRange_v2(cuda::DevicePointer* base, size_t* size, cuda::DevicePointer at) {
  phantom::Address start = 0;
  size_t length = 0;
  int device = 0;
  if (GetMemory().Classify(at, &start, &length, &device) != Kind::kDevice) return cuda::kNotFound;
  if (base != nullptr) *base = start;
  if (size != nullptr) *size = length;
  return cuda::kSuccess;
}
DRIVER cuPointerGetAttribute(void* out, int attribute, cuda::DevicePointer at) {
  phantom::Address base = 0;
  size_t size = 0;
  int device = 0;
  const Kind kind = GetMemory().Classify(at, &base, &size, &device);
  if (kind == Kind::kUnknown) return cuda::kInvalidValue;
  switch (attribute) {
    case 2:  // memory type
      *static_cast<unsigned*>(out) = kind == Kind::kDevice ? 2 : 1;
      return cuda::kSuccess;
    case 3:  // device pointer
      *static_cast<cuda::DevicePointer*>(out) = at;
      return cuda::kSuccess;
    case 8:  // managed
      *static_cast<bool*>(out) = false;
      return cuda::kSuccess;
    case 9:  // device ordinal
      *static_cast<int*>(out) = device;
      return cuda::kSuccess;
    case 11:  // start of the range
      *static_cast<cuda::DevicePointer*>(out) = base;
      return cuda::kSuccess;
    case 12:  // its size
      *static_cast<size_t*>(out) = size;
      return cuda::kSuccess;
    default:
      return cuda::kNotSupported;
  }
}

// ---- copies ----

DRIVER cuMemcpyHtoD_v2(cuda::DevicePointer to, const void* from, size_t size) {
  ENTER("cuMemcpyHtoD");
  return GetStreams().Copy(to, ToAddress(from), size, nullptr, true);
}
DRIVER cuMemcpyDtoH_v2(void* to, cuda::DevicePointer from, size_t size) {
  ENTER("cuMemcpyDtoH");
  return GetStreams().Copy(ToAddress(to), from, size, nullptr, true);
}
DRIVER cuMemcpyDtoD_v2(cuda::DevicePointer to, cuda::DevicePointer from, size_t size) {
  ENTER("cuMemcpyDtoD");
  return GetStreams().Copy(to, from, size, nullptr, true);
}
DRIVER cuMemcpyHtoDAsync_v2(cuda::DevicePointer to, const void* from, size_t size, void* stream) {
  ENTER("cuMemcpyHtoDAsync");
  return GetStreams().Copy(to, ToAddress(from), size, stream, false);
}
DRIVER cuMemcpyDtoHAsync_v2(void* to, cuda::DevicePointer from, size_t size, void* stream) {
  ENTER("cuMemcpyDtoHAsync");
  return GetStreams().Copy(ToAddress(to), from, size, stream, false);
}
DRIVER cuMemcpyDtoDAsync_v2(cuda::DevicePointer to, cuda::DevicePointer from, size_t size,
                            void* stream) {
  ENTER("cuMemcpyDtoDAsync");
  return GetStreams().Copy(to, from, size, stream, false);
}
DRIVER cuMemsetD8_v2(cuda::DevicePointer to, unsigned char value, size_t count) {
  ENTER("cuMemsetD8");
  return GetStreams().Fill(to, value, 1, count, nullptr, true);
}
DRIVER cuMemsetD32_v2(cuda::DevicePointer to, unsigned value, size_t count) {
  ENTER("cuMemsetD32");
  return GetStreams().Fill(to, value, 4, count, nullptr, true);
}
DRIVER cuMemsetD8Async(cuda::DevicePointer to, unsigned char value, size_t count, void* stream) {
  ENTER("cuMemsetD8Async");
  return GetStreams().Fill(to, value, 1, count, stream, false);
}
DRIVER cuMemsetD32Async(cuda::DevicePointer to, unsigned value, size_t count, void* stream) {
  ENTER("cuMemsetD32Async");
  return GetStreams().Fill(to, value, 4, count, stream, false);
}

// The phantom driver: streams, events, look-up of entry points, and what tests ask it.
#include <dlfcn.h>

#include <cstring>
#include <string>

#include "phantom/driver.h"
#include "phantom/settings.h"

using phantom::GetMemory;
using phantom::GetStreams;
using phantom::Streams;
namespace cuda = phantom::cuda;

DRIVER cuStreamCreate(void** out, unsigned flags) {
  ENTER("cuStreamCreate");
  return GetStreams().Create(flags, 0, out);
}
DRIVER cuStreamCreateWithPriority(void** out, unsigned flags, int priority) {
  ENTER("cuStreamCreate");
  return GetStreams().Create(flags, priority, out);
}
DRIVER cuStreamDestroy_v2(void* stream) { return GetStreams().Destroy(stream); }
DRIVER cuStreamSynchronize(void* stream) {
  ENTER("cuStreamSynchronize");
  return GetStreams().Synchronize(stream);
}
DRIVER cuStreamQuery(void* stream) { return GetStreams().Query(stream); }
DRIVER cuStreamWaitEvent(void* stream, void* event, unsigned) {
  return GetStreams().WaitEvent(stream, event);
}
DRIVER cuStreamIsCapturing(void* stream, int* status) {
  return GetStreams().CaptureInfo(stream, status, nullptr, nullptr);
}
DRIVER cuLaunchHostFunc(void* stream, void (*function)(void*), void* argument) {
  return GetStreams().HostFunction(stream, function, argument);
}
DRIVER cuEventCreate(void** out, unsigned flags) { return GetStreams().CreateEvent(flags, out); }
DRIVER cuEventDestroy_v2(void* event) { return GetStreams().DestroyEvent(event); }
DRIVER cuEventRecord(void* event, void* stream) { return GetStreams().Record(event, stream); }
DRIVER cuEventQuery(void* event) { return GetStreams().QueryEvent(event); }
DRIVER cuEventSynchronize(void* event) {
  ENTER("cuEventSynchronize");
  return GetStreams().SynchronizeEvent(event);
}
DRIVER cuEventElapsedTime_v2(float* ms, void* from, void* to) {
  return GetStreams().Elapsed(from, to, ms);
}
// ---- look-up ----

namespace {

/// Entry points with several addresses, and names whose current version has a suffix.
constexpr const char* kVirtualMemory[] = {"cuMemAddressReserve",
                                          "cuMemAddressFree",
                                          "cuMemCreate",
                                          "cuMemRelease",
                                          "cuMemMap",
                                          "cuMemUnmap",
                                          "cuMemSetAccess",
                                          "cuMemExportToShareableHandle",
                                          "cuMemImportFromShareableHandle"};

void* Self(const std::string& name) {
  static void* const self = [] {
    Dl_info info;
    dladdr(reinterpret_cast<void*>(&Self), &info);
    return dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  }();
  return dlsym(self, name.c_str());
}

/// Stands for every driver call that the phantom has not.
cuda::Result NotOffered() { return cuda::kNotSupported; }

}  // namespace

void* phantom::LookUp(const char* name, bool for_runtime) {
  for (const char* known : kVirtualMemory) {
    if (std::strcmp(known, name) == 0) {
      return Self(std::string(name) + (for_runtime ? "_of_runtime" : "_looked_up"));
    }
  }
  void* address = Self(std::string(name) + "_v2");
  if (address == nullptr) address = Self(name);
  const bool of_driver = std::strncmp(name, "cu", 2) == 0;
  return address == nullptr && of_driver ? reinterpret_cast<void*>(&NotOffered) : address;
}

PHANTOM_EXPORT void* phantomRuntimeEntryPoint(const char* name) {
  return phantom::LookUp(name, true);
}
DRIVER cuGetProcAddress_v2(const char* name, void** out, int, uint64_t, int* found) {
  *out = phantom::LookUp(name, false);
  if (found != nullptr) *found = *out != nullptr ? 0 : 1;
  return *out != nullptr ? cuda::kSuccess : cuda::kNotFound;
}
DRIVER cuGetExportTable(const void** table, const void*) {
  *table = nullptr;
  return cuda::kNotFound;
}

// ---- for tests ----

PHANTOM_EXPORT void phantomHoldCall(const char* call) { phantom::HoldCall(call); }
PHANTOM_EXPORT void phantomLetThrough(int calls) { phantom::LetThrough(calls); }
PHANTOM_EXPORT void phantomArmFault(const char* call, int skip, int times, int error) {
  phantom::ArmFault(call, skip, times, error);
}
PHANTOM_EXPORT void phantomDisarmFaults() { phantom::DisarmFaults(); }
PHANTOM_EXPORT uint64_t phantomCallCount(const char* call) { return phantom::CallCount(call); }
PHANTOM_EXPORT void phantomForgive() { GetStreams().Forgive(); }
PHANTOM_EXPORT void phantomSetDelay(int delay) {
  phantom::GetSettings().delay = static_cast<phantom::Delay>(delay);
}
PHANTOM_EXPORT void phantomSetHostNuma(int on) { phantom::GetSettings().host_numa = on != 0; }
PHANTOM_EXPORT void phantomSetQuiet(int on) { phantom::GetSettings().quiet = on != 0; }
DRIVER phantomTouch(cuda::DevicePointer at, size_t size, void* stream, double us) {
  return GetStreams().Touch(at, size, stream, us);
}
PHANTOM_EXPORT size_t phantomPending() { return GetStreams().pending(); }
/// capacity, used, peak, refusals, held by this process
PHANTOM_EXPORT void phantomLedger(int device, uint64_t* out) {
  if (GetMemory().Init() != cuda::kSuccess) return;
  const auto figures = GetMemory().ledger(device).Figures();
  const uint64_t values[] = {figures.capacity, figures.used, figures.peak, figures.refused,
                             figures.held_here};
  std::memcpy(out, values, sizeof values);
}
/// Addresses that launched kernels were given and found mapped.
PHANTOM_EXPORT uint64_t phantomLookedAt() {
  std::lock_guard<std::mutex> lock(GetMemory().mu);
  return GetStreams().looked_at;
}
/// kernel launches, copies, copied bytes, handles, mappings, reservations
PHANTOM_EXPORT void phantomFigures(uint64_t* out) {
  std::lock_guard<std::mutex> lock(GetMemory().mu);
  const Streams& streams = GetStreams();
  const uint64_t values[] = {streams.launches,
                             streams.copies,
                             streams.copied_bytes,
                             GetMemory().handle_count(),
                             GetMemory().mapping_count(),
                             GetMemory().reservation_count()};
  std::memcpy(out, values, sizeof values);
}

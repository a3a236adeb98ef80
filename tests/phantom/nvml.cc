// The phantom libnvidia-ml.so.1: devices, their memory and who holds it, from the same ledgers.
#include <cstdio>
#include <cstring>

#include "phantom/driver.h"
#include "phantom/settings.h"

using phantom::GetMemory;

namespace {

constexpr int kOk = 0;
constexpr int kUninitialized = 1;
constexpr int kInvalidArgument = 2;
constexpr int kNotSupported = 3;
constexpr int kInsufficientSize = 7;
constexpr int kProcessesMax = 64;

char devices[16];  // a handle is the address of its device's byte

int DeviceOf(const void* handle) {
  return static_cast<int>(static_cast<const char*>(handle) - devices);
}
bool IsDevice(const void* handle) {
  return handle >= devices && DeviceOf(handle) < GetMemory().device_count();
}

struct MemoryInfo {
  unsigned long long total, free, used;
};
struct ProcessInfo {
  unsigned pid;
  unsigned long long used_bytes;
  unsigned gpu_instance, compute_instance;
};

}  // namespace

#define NVML PHANTOM_EXPORT int

NVML nvmlInit_v2() { return GetMemory().Init() == phantom::cuda::kSuccess ? kOk : kUninitialized; }
NVML nvmlShutdown() { return kOk; }
PHANTOM_EXPORT const char* nvmlErrorString(int) { return "phantom NVML error"; }
NVML nvmlSystemGetDriverVersion(char* text, unsigned size) {
  std::snprintf(text, size, "phantom");
  return kOk;
}
NVML nvmlSystemGetCudaDriverVersion_v2(int* version) {
  *version = 13000;
  return kOk;
}
NVML nvmlDeviceGetCount_v2(unsigned* count) {
  *count = static_cast<unsigned>(GetMemory().device_count());
  return kOk;
}
NVML nvmlDeviceGetHandleByIndex_v2(unsigned index, void** out) {
  if (index >= static_cast<unsigned>(GetMemory().device_count())) return kInvalidArgument;
  *out = &devices[index];
  return kOk;
}
NVML nvmlDeviceGetHandleByPciBusId_v2(const char* text, void** out) {
  unsigned domain = 0, bus = 0;
  if (std::sscanf(text, "%x:%x", &domain, &bus) != 2 || bus == 0) return kInvalidArgument;
  return nvmlDeviceGetHandleByIndex_v2(bus - 1, out);
}
NVML nvmlDeviceGetHandleByUUID(const char* text, void** out) {
  for (int i = 0; i < GetMemory().device_count(); ++i) {
    char last[4];
    std::snprintf(last, sizeof last, "%02x", static_cast<unsigned char>(i));
    if (std::strlen(text) >= 2 && std::strcmp(text + std::strlen(text) - 2, last) == 0) {
      *out = &devices[i];
      return kOk;
    }
  }
  return kInvalidArgument;
}
NVML nvmlDeviceGetName(void* device, char* text, unsigned size) {
  if (!IsDevice(device)) return kInvalidArgument;
  std::snprintf(text, size, "%s", phantom::GetSettings().device_name.c_str());
  return kOk;
}
NVML nvmlDeviceGetMemoryInfo(void* device, MemoryInfo* out) {
  if (!IsDevice(device)) return kInvalidArgument;
  const auto figures = GetMemory().ledger(DeviceOf(device)).Figures();
  *out = {figures.capacity, figures.capacity - figures.used, figures.used};
  return kOk;
}
NVML nvmlDeviceGetComputeRunningProcesses_v3(void* device, unsigned* count, ProcessInfo* out) {
  if (!IsDevice(device)) return kInvalidArgument;
  int pids[kProcessesMax];
  uint64_t bytes[kProcessesMax];
  const int found = GetMemory().ledger(DeviceOf(device)).Holders(pids, bytes, kProcessesMax);
  const unsigned room = *count;
  *count = static_cast<unsigned>(found);
  if (room < static_cast<unsigned>(found)) return kInsufficientSize;
  for (int i = 0; i < found; ++i) out[i] = {static_cast<unsigned>(pids[i]), bytes[i], 0, 0};
  return kOk;
}
NVML nvmlDeviceGetComputeRunningProcesses(void* device, unsigned* count, ProcessInfo* out) {
  return nvmlDeviceGetComputeRunningProcesses_v3(device, count, out);
}
// Links and fabrics: none here.
NVML nvmlDeviceGetGpuFabricInfoV(void*, void*) { return kNotSupported; }
NVML nvmlDeviceGetNvLinkRemoteDeviceType(void*, unsigned, void*) { return kNotSupported; }
NVML nvmlDeviceGetNvLinkRemotePciInfo_v2(void*, unsigned, void*) { return kNotSupported; }

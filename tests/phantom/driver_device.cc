// The phantom driver: devices, contexts, errors, plain answers.
#include <atomic>
#include <cstdio>
#include <cstring>

#include "phantom/driver.h"
#include "phantom/settings.h"

using phantom::GetMemory;
using phantom::GetStreams;
using phantom::Streams;
namespace cuda = phantom::cuda;

namespace {

constexpr int kDevicesMax = 16;
constexpr int kVersion = 13000;
std::atomic<int> retained[kDevicesMax];
char contexts[kDevicesMax];  // a context is the address of its device's byte
thread_local void* current_context = nullptr;

bool IsDevice(int device) { return device >= 0 && device < GetMemory().device_count(); }
int DeviceOf(void* context) { return static_cast<int>(static_cast<char*>(context) - contexts); }

struct AttributeValue {
  int attribute;
  int value;
};
// By the numbers of CUdevice_attribute; figures of a part of the Hopper class.
constexpr AttributeValue kAttributes[] = {
    {1, 1024},     {2, 1024},     {3, 1024},        {4, 64},        {5, 2147483647},  {6, 65535},
    {7, 65535},    {8, 49152},    {9, 65536},       {10, 32},       {11, 2147483647}, {12, 65536},
    {13, 1980000}, {14, 512},     {15, 1},          {16, 132},      {19, 1},          {31, 1},
    {32, 1},       {36, 2619000}, {37, 5120},       {38, 50 << 20}, {39, 2048},       {40, 3},
    {41, 1},       {75, 9},       {76, 0},          {78, 1},        {79, 1},          {80, 1},
    {81, 233472},  {82, 65536},   {95, 1},          {97, 232448},   {99, 1},          {102, 1},
    {103, 1},      {106, 32},     {108, 128 << 10}, {111, 1024},    {115, 1},         {119, 1},
    {120, 1},
};

}  // namespace

int phantom::Attribute(int attribute, int device) {
  if (attribute == 33) return device + 1;  // PCI bus
  if (attribute == 141) return GetSettings().host_numa ? 1 : 0;
  for (const AttributeValue& entry : kAttributes) {
    if (entry.attribute == attribute) return entry.value;
  }
  return 0;
}

/// As a driver's exit handlers, it does not get past a lock on this process.
__attribute__((destructor)) static void LeaveLedgers() {
  const phantom::InCall being_in_one;
  GetMemory().Detach();
}

DRIVER cuInit(unsigned flags) {
  ENTER("cuInit");
  return flags == 0 ? GetMemory().Init() : cuda::kInvalidValue;
}
DRIVER cuDriverGetVersion(int* version) {
  *version = kVersion;
  return cuda::kSuccess;
}
DRIVER cuDeviceGetCount(int* count) {
  *count = GetMemory().device_count();
  return *count > 0 ? cuda::kSuccess : cuda::kNotInitialized;
}
DRIVER cuDeviceGet(int* device, int ordinal) {
  if (!IsDevice(ordinal)) return cuda::kInvalidDevice;
  *device = ordinal;
  return cuda::kSuccess;
}
DRIVER cuDeviceGetName(char* name, int size, int device) {
  if (!IsDevice(device)) return cuda::kInvalidDevice;
  std::snprintf(name, size, "%s", phantom::GetSettings().device_name.c_str());
  return cuda::kSuccess;
}
DRIVER cuDeviceGetUuid_v2(unsigned char* uuid, int device) {
  if (!IsDevice(device)) return cuda::kInvalidDevice;
  std::memcpy(uuid, "phantom-device-", 15);
  uuid[15] = static_cast<unsigned char>(device);
  return cuda::kSuccess;
}
DRIVER cuDeviceTotalMem_v2(size_t* size, int device) {
  if (!IsDevice(device)) return cuda::kInvalidDevice;
  *size = GetMemory().ledger(device).Figures().capacity;
  return cuda::kSuccess;
}
DRIVER cuDeviceGetAttribute(int* value, int attribute, int device) {
  if (!IsDevice(device)) return cuda::kInvalidDevice;
  *value = phantom::Attribute(attribute, device);
  return cuda::kSuccess;
}
DRIVER cuDeviceGetPCIBusId(char* text, int size, int device) {
  if (!IsDevice(device)) return cuda::kInvalidDevice;
  std::snprintf(text, size, "0000:%02X:00.0", device + 1);
  return cuda::kSuccess;
}

DRIVER cuDeviceCanAccessPeer(int* can, int device, int peer) {
  if (!IsDevice(device) || !IsDevice(peer)) return cuda::kInvalidDevice;
  *can = device != peer ? 1 : 0;
  return cuda::kSuccess;
}

DRIVER cuDevicePrimaryCtxRetain(void** context, int device) {
  ENTER("cuDevicePrimaryCtxRetain");
  if (!IsDevice(device)) return cuda::kInvalidDevice;
  if (!GetMemory().ledger(device).ChargeContext()) return cuda::kOutOfMemory;
  ++retained[device];
  *context = &contexts[device];
  return cuda::kSuccess;
}
DRIVER cuDevicePrimaryCtxRelease_v2(int device) {
  if (!IsDevice(device) || retained[device] == 0) return cuda::kInvalidDevice;
  --retained[device];
  return cuda::kSuccess;
}
DRIVER cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
  if (!IsDevice(device)) return cuda::kInvalidDevice;
  *flags = 0;
  *active = retained[device] > 0 ? 1 : 0;
  return cuda::kSuccess;
}
DRIVER cuDevicePrimaryCtxSetFlags_v2(int, unsigned) { return cuda::kSuccess; }
DRIVER cuCtxGetCurrent(void** context) {
  *context = current_context;
  return cuda::kSuccess;
}
DRIVER cuCtxSetCurrent(void* context) {
  ENTER("cuCtxSetCurrent");
  current_context = context;
  return context == nullptr ? cuda::kSuccess : GetStreams().SetDevice(DeviceOf(context));
}
DRIVER cuCtxPushCurrent_v2(void* context) { return cuCtxSetCurrent(context); }
DRIVER cuCtxPopCurrent_v2(void** context) {
  if (context != nullptr) *context = current_context;
  return cuda::kSuccess;
}
DRIVER cuCtxGetDevice(int* device) {
  if (current_context == nullptr) return cuda::kInvalidContext;
  *device = DeviceOf(current_context);
  return cuda::kSuccess;
}
DRIVER cuCtxSynchronize() {
  ENTER("cuCtxSynchronize");
  return current_context == nullptr ? cuda::kInvalidContext : GetStreams().SynchronizeDevice();
}
DRIVER cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  if (least != nullptr) *least = 0;
  if (greatest != nullptr) *greatest = -5;
  return cuda::kSuccess;
}
/// For the phantom runtime: the primary context of the device becomes current, as in the real one.
PHANTOM_EXPORT int phantomUseDevice(int device) {
  if (!GetMemory().ledger(device).ChargeContext()) return cuda::kOutOfMemory;
  if (retained[device] == 0) ++retained[device];
  current_context = &contexts[device];
  return cuda::kSuccess;
}

DRIVER cuGetErrorName(cuda::Result result, const char** name) {
  switch (result) {
    case cuda::kSuccess:
      *name = "CUDA_SUCCESS";
      break;
    case cuda::kInvalidValue:
      *name = "CUDA_ERROR_INVALID_VALUE";
      break;
    case cuda::kOutOfMemory:
      *name = "CUDA_ERROR_OUT_OF_MEMORY";
      break;
    case cuda::kInvalidDevice:
      *name = "CUDA_ERROR_INVALID_DEVICE";
      break;
    case cuda::kInvalidHandle:
      *name = "CUDA_ERROR_INVALID_HANDLE";
      break;
    case cuda::kIllegalAddress:
      *name = "CUDA_ERROR_ILLEGAL_ADDRESS";
      break;
    case cuda::kNotReady:
      *name = "CUDA_ERROR_NOT_READY";
      break;
    case phantom::kIllegalState:
      *name = "CUDA_ERROR_ILLEGAL_STATE";
      break;
    case cuda::kNotPermitted:
      *name = "CUDA_ERROR_NOT_PERMITTED";
      break;
    case cuda::kNotSupported:
      *name = "CUDA_ERROR_NOT_SUPPORTED";
      break;
    default:
      *name = "CUDA_ERROR_UNKNOWN";
      break;
  }
  return cuda::kSuccess;
}
DRIVER cuGetErrorString(cuda::Result result, const char** text) {
  return cuGetErrorName(result, text);
}

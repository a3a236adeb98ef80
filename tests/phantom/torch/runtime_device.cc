// The phantom libcudart: devices, errors, memory, streams and events.
#include <cstdio>
#include <cstring>

#include "runtime.h"

using phantom_runtime::Answer;
using phantom_runtime::Begin;
using phantom_runtime::Number;
using phantom_runtime::Pointer;

namespace {

thread_local cudaError_t last_error = cudaSuccess;

struct ErrorText {
  int code;
  const char* name;
  const char* text;
};
constexpr ErrorText kErrors[] = {
    {0, "cudaSuccess", "no error"},
    {1, "cudaErrorInvalidValue", "invalid argument"},
    {2, "cudaErrorMemoryAllocation", "out of memory"},
    {3, "cudaErrorInitializationError", "initialization error"},
    {9, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {100, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {101, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {400, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {600, "cudaErrorNotReady", "device not ready"},
    {700, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {801, "cudaErrorNotSupported", "operation not supported"},
    {900, "cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"},
};

int Figure(int attribute, int device) {
  int value = 0;
  cuDeviceGetAttribute(&value, attribute, device);
  return value;
}

}  // namespace

cudaError_t phantom_runtime::Answer(int result) {
  if (result != 0) last_error = static_cast<cudaError_t>(result);
  return static_cast<cudaError_t>(result);
}

int phantom_runtime::Begin() {
  if (const int error = cuInit(0)) return error;
  thread_local int begun = -1;
  const int device = phantomCurrentDevice();
  if (begun == device) return 0;
  begun = device;
  return phantomSetDevice(device);
}

#define BEGIN() \
  if (const int error = Begin()) return Answer(error)

// ---- devices and errors ----

RUNTIME cudaGetDeviceCount(int* count) {
  *count = 0;
  if (const int error = cuInit(0)) return Answer(error);
  return Answer(cuDeviceGetCount(count));
}
RUNTIME cudaGetDevice(int* device) {
  *device = phantomCurrentDevice();
  return cudaSuccess;
}
RUNTIME cudaSetDevice(int device) { return Answer(phantomSetDevice(device)); }
RUNTIME cudaInitDevice(int device, unsigned, unsigned) { return cudaSetDevice(device); }
RUNTIME cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
RUNTIME cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
RUNTIME cudaPeekAtLastError() {
  const int sticky = phantomStickyError();
  return sticky != 0 ? static_cast<cudaError_t>(sticky) : last_error;
}
RUNTIME cudaGetLastError() {
  const cudaError_t error = cudaPeekAtLastError();
  last_error = cudaSuccess;
  return error;
}
PHANTOM_EXPORT const char* CUDARTAPI cudaGetErrorName(cudaError_t error) {
  for (const ErrorText& known : kErrors) {
    if (known.code == static_cast<int>(error)) return known.name;
  }
  return "cudaErrorUnknown";
}
PHANTOM_EXPORT const char* CUDARTAPI cudaGetErrorString(cudaError_t error) {
  for (const ErrorText& known : kErrors) {
    if (known.code == static_cast<int>(error)) return known.text;
  }
  return "unrecognized error code";
}
RUNTIME cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  return Answer(cuDeviceGetAttribute(value, static_cast<int>(attribute), device));
}
RUNTIME cudaGetDeviceProperties(cudaDeviceProp* out, int device) {
  std::memset(out, 0, sizeof *out);
  if (const int error = cuDeviceGetName(out->name, sizeof out->name, device)) return Answer(error);
  cuDeviceGetUuid_v2(reinterpret_cast<unsigned char*>(out->uuid.bytes), device);
  cuDeviceTotalMem_v2(&out->totalGlobalMem, device);
  auto figure = [device](int attribute) { return Figure(attribute, device); };
  out->sharedMemPerBlock = figure(8);
  out->regsPerBlock = figure(12);
  out->warpSize = figure(10);
  out->memPitch = figure(11);
  out->maxThreadsPerBlock = figure(1);
  for (int axis = 0; axis < 3; ++axis) {
    out->maxThreadsDim[axis] = figure(2 + axis);
    out->maxGridSize[axis] = figure(5 + axis);
  }
  out->totalConstMem = figure(9);
  out->major = figure(75);
  out->minor = figure(76);
  out->textureAlignment = figure(14);
  out->texturePitchAlignment = 32;
  out->multiProcessorCount = figure(16);
  out->canMapHostMemory = 1;
  out->concurrentKernels = 1;
  out->pciBusID = figure(33);
  out->asyncEngineCount = figure(40);
  out->unifiedAddressing = 1;
  out->memoryBusWidth = figure(37);
  out->l2CacheSize = figure(38);
  out->maxThreadsPerMultiProcessor = figure(39);
  out->streamPrioritiesSupported = 1;
  out->sharedMemPerMultiprocessor = figure(81);
  out->regsPerMultiprocessor = figure(82);
  out->cooperativeLaunch = 1;
  out->sharedMemPerBlockOptin = figure(97);
  out->maxBlocksPerMultiProcessor = figure(106);
  out->reservedSharedMemPerBlock = figure(111);
  out->clusterLaunch = 1;
  return cudaSuccess;
}
RUNTIME cudaDeviceGetPCIBusId(char* text, int size, int device) {
  return Answer(cuDeviceGetPCIBusId(text, size, device));
}
RUNTIME cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  *can = device != peer ? 1 : 0;
  return cudaSuccess;
}
RUNTIME cudaDeviceEnablePeerAccess(int, unsigned) { return cudaSuccess; }
RUNTIME cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (least != nullptr) *least = 0;
  if (greatest != nullptr) *greatest = -5;
  return cudaSuccess;
}
RUNTIME cudaDeviceSynchronize() {
  BEGIN();
  return Answer(cuCtxSynchronize());
}
RUNTIME cudaProfilerStart() { return cudaSuccess; }
RUNTIME cudaProfilerStop() { return cudaSuccess; }
RUNTIME cudaGetDriverEntryPointByVersion(const char* name, void** out, unsigned, unsigned long long,
                                         cudaDriverEntryPointQueryResult* result) {
  *out = phantomRuntimeEntryPoint(name);
  if (result != nullptr) {
    *result = *out != nullptr ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  }
  return cudaSuccess;
}

// ---- memory ----

RUNTIME cudaMalloc(void** out, size_t size) {
  BEGIN();
  unsigned long long at = 0;
  const int result = cuMemAlloc_v2(&at, size);
  if (result == 0) *out = Pointer(at);
  return Answer(result);
}
RUNTIME cudaFree(void* at) {
  BEGIN();
  return Answer(cuMemFree_v2(Number(at)));
}
RUNTIME cudaMallocAsync(void** out, size_t size, cudaStream_t) { return cudaMalloc(out, size); }
RUNTIME cudaFreeAsync(void* at, cudaStream_t) { return cudaFree(at); }
RUNTIME cudaHostAlloc(void** out, size_t size, unsigned flags) {
  BEGIN();
  return Answer(cuMemHostAlloc(out, size, flags));
}
RUNTIME cudaMallocHost(void** out, size_t size) { return cudaHostAlloc(out, size, 0); }
RUNTIME cudaFreeHost(void* at) { return Answer(cuMemFreeHost(at)); }
RUNTIME cudaHostRegister(void* at, size_t size, unsigned flags) {
  BEGIN();
  return Answer(cuMemHostRegister_v2(at, size, flags));
}
RUNTIME cudaHostUnregister(void* at) { return Answer(cuMemHostUnregister(at)); }
RUNTIME cudaMemGetInfo(size_t* free, size_t* total) {
  BEGIN();
  return Answer(cuMemGetInfo_v2(free, total));
}
RUNTIME cudaPointerGetAttributes(cudaPointerAttributes* out, const void* at) {
  std::memset(out, 0, sizeof *out);
  unsigned kind = 0;
  out->device = -2;
  if (cuPointerGetAttribute(&kind, 2, Number(at)) != 0) {
    out->type = cudaMemoryTypeUnregistered;
    return cudaSuccess;
  }
  cuPointerGetAttribute(&out->device, 9, Number(at));
  out->type = kind == 2 ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
  out->devicePointer = const_cast<void*>(at);
  if (kind != 2) out->hostPointer = const_cast<void*>(at);
  return cudaSuccess;
}
RUNTIME cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind) {
  BEGIN();
  return Answer(phantomCopy(to, from, size, nullptr, 1));
}
RUNTIME cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind,
                        cudaStream_t stream) {
  BEGIN();
  return Answer(phantomCopy(to, from, size, stream, 0));
}
RUNTIME cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t size,
                            cudaStream_t stream) {
  BEGIN();
  return Answer(phantomCopy(to, from, size, stream, 0));
}
RUNTIME cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                          size_t width, size_t height, cudaMemcpyKind, cudaStream_t stream) {
  BEGIN();
  return Answer(phantomCopy2D(to, to_pitch, from, from_pitch, width, height, stream, 0));
}
RUNTIME cudaMemset(void* to, int value, size_t size) {
  BEGIN();
  return Answer(phantomFill(to, value, size, nullptr, 1));
}
RUNTIME cudaMemsetAsync(void* to, int value, size_t size, cudaStream_t stream) {
  BEGIN();
  return Answer(phantomFill(to, value, size, stream, 0));
}
RUNTIME cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* at) {
  return Answer(phantomIpcGet(at, handle));
}
RUNTIME cudaIpcOpenMemHandle(void** out, cudaIpcMemHandle_t handle, unsigned) {
  BEGIN();
  return Answer(phantomIpcOpen(&handle, out));
}
RUNTIME cudaIpcCloseMemHandle(void* at) { return cudaFree(at); }

// ---- streams and events ----

RUNTIME cudaStreamCreateWithPriority(cudaStream_t* out, unsigned flags, int priority) {
  BEGIN();
  return Answer(cuStreamCreateWithPriority(reinterpret_cast<void**>(out), flags, priority));
}
RUNTIME cudaStreamCreate(cudaStream_t* out) { return cudaStreamCreateWithPriority(out, 0, 0); }
RUNTIME cudaStreamCreateWithFlags(cudaStream_t* out, unsigned flags) {
  return cudaStreamCreateWithPriority(out, flags, 0);
}
RUNTIME cudaStreamDestroy(cudaStream_t stream) { return Answer(cuStreamDestroy_v2(stream)); }
RUNTIME cudaStreamQuery(cudaStream_t stream) {
  BEGIN();
  const int result = cuStreamQuery(stream);
  return result == 600 ? cudaErrorNotReady : Answer(result);
}
RUNTIME cudaStreamSynchronize(cudaStream_t stream) {
  BEGIN();
  return Answer(cuStreamSynchronize(stream));
}
RUNTIME cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  BEGIN();
  return Answer(cuStreamWaitEvent(stream, event, flags));
}
RUNTIME cudaStreamGetPriority(cudaStream_t stream, int* priority) {
  *priority = phantomStreamPriority(stream);
  return cudaSuccess;
}
RUNTIME cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* argument) {
  BEGIN();
  return Answer(cuLaunchHostFunc(stream, function, argument));
}
RUNTIME cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t function, void* data,
                              unsigned) {
  struct Callback {
    cudaStream_t stream;
    cudaStreamCallback_t function;
    void* data;
  };
  auto call = [](void* argument) {
    auto* callback = static_cast<Callback*>(argument);
    callback->function(callback->stream, cudaSuccess, callback->data);
    delete callback;
  };
  return Answer(cuLaunchHostFunc(stream, call, new Callback{stream, function, data}));
}
RUNTIME cudaEventCreateWithFlags(cudaEvent_t* out, unsigned flags) {
  BEGIN();
  return Answer(cuEventCreate(reinterpret_cast<void**>(out), flags));
}
RUNTIME cudaEventCreate(cudaEvent_t* out) { return cudaEventCreateWithFlags(out, 0); }
RUNTIME cudaEventDestroy(cudaEvent_t event) { return Answer(cuEventDestroy_v2(event)); }
RUNTIME cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  BEGIN();
  return Answer(cuEventRecord(event, stream));
}
RUNTIME cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
  return cudaEventRecord(event, stream);
}
RUNTIME cudaEventQuery(cudaEvent_t event) {
  BEGIN();
  const int result = cuEventQuery(event);
  return result == 600 ? cudaErrorNotReady : Answer(result);
}
RUNTIME cudaEventSynchronize(cudaEvent_t event) {
  BEGIN();
  return Answer(cuEventSynchronize(event));
}
/// Done before it is handed to another process, for which there is nothing left to wait for.
RUNTIME cudaIpcGetEventHandle(cudaIpcEventHandle_t* handle, cudaEvent_t event) {
  BEGIN();
  std::memset(handle, 0, sizeof *handle);
  return Answer(cuEventSynchronize(event));
}
RUNTIME cudaIpcOpenEventHandle(cudaEvent_t* out, cudaIpcEventHandle_t) {
  return cudaEventCreateWithFlags(out, cudaEventDisableTiming);
}
RUNTIME cudaEventElapsedTime(float* ms, cudaEvent_t from, cudaEvent_t to) {
  return Answer(cuEventElapsedTime_v2(ms, from, to));
}

// The C face of the phantom driver, for the stand-ins that are compiled against NVIDIA's headers.
#pragma once

#include <cstddef>
#include <cstdint>

#define PHANTOM_EXPORT extern "C" __attribute__((visibility("default")))

extern "C" {
int cuInit(unsigned);
int cuDeviceGetCount(int*);
int cuDeviceGetName(char*, int, int);
int cuDeviceGetUuid_v2(unsigned char*, int);
int cuDeviceTotalMem_v2(size_t*, int);
int cuDeviceGetAttribute(int*, int, int);
int cuDeviceGetPCIBusId(char*, int, int);
int cuCtxSynchronize();
int cuMemGetInfo_v2(size_t*, size_t*);
int cuMemAlloc_v2(unsigned long long*, size_t);
int cuMemFree_v2(unsigned long long);
int cuMemHostAlloc(void**, size_t, unsigned);
int cuMemFreeHost(void*);
int cuMemHostRegister_v2(void*, size_t, unsigned);
int cuMemHostUnregister(void*);
int cuPointerGetAttribute(void*, int, unsigned long long);
int cuStreamCreateWithPriority(void**, unsigned, int);
int cuStreamDestroy_v2(void*);
int cuStreamSynchronize(void*);
int cuStreamQuery(void*);
int cuStreamWaitEvent(void*, void*, unsigned);
int cuLaunchHostFunc(void*, void (*)(void*), void*);
int cuEventCreate(void**, unsigned);
int cuEventDestroy_v2(void*);
int cuEventRecord(void*, void*);
int cuEventQuery(void*);
int cuEventSynchronize(void*);
int cuEventElapsedTime_v2(float*, void*, void*);

// Beyond the driver's own calls (tests/phantom/driver_runtime.cc).
int phantomSetDevice(int device);
int phantomCurrentDevice();
int phantomStickyError();
int phantomStreamPriority(void* stream);
int phantomCopy(void* to, const void* from, size_t size, void* stream, int wait);
int phantomCopy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                  size_t height, void* stream, int wait);
int phantomFill(void* to, int value, size_t size, void* stream, int wait);
int phantomLaunch(void* stream, const unsigned* grid, const unsigned* block);
int phantomIpcGet(void* at, void* handle_64);
int phantomIpcOpen(const void* handle_64, void** out);
int phantomCapture(void* stream, int begin, void** graph);
int phantomCaptureInfo(void* stream, int* status, unsigned long long* id, void** graph);
int phantomGraphLaunch(void* graph, void* stream);
void* phantomGraphClone(void* graph);
void phantomGraphFree(void* graph);
size_t phantomGraphSize(void* graph);
void* phantomRuntimeEntryPoint(const char* name);
}

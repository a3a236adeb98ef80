// The phantom libcudart: kernels, which are registered and launched as nothing, and captured
// graphs.
#include <algorithm>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime.h"

using phantom_runtime::Answer;
using phantom_runtime::Begin;
using phantom_runtime::Pointer;

namespace {

struct Variable {
  size_t size = 0;
  void* device = nullptr;
};
struct Registry {
  std::mutex mu;
  std::unordered_map<const void*, Variable> variables;
};
Registry& GetRegistry() {
  static Registry& registry = *new Registry;
  return registry;
}

struct Configuration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};
thread_local std::vector<Configuration> configurations;

cudaError_t Launch(dim3 grid, dim3 block, cudaStream_t stream) {
  if (const int error = Begin()) return Answer(error);
  const unsigned sizes[] = {grid.x, grid.y, grid.z, block.x, block.y, block.z};
  const int result = phantomLaunch(stream, sizes, sizes + 3);
  return Answer(result == 1 ? static_cast<int>(cudaErrorInvalidConfiguration) : result);
}

}  // namespace

#define HIDDEN_RUNTIME extern "C" __attribute__((visibility("default")))

HIDDEN_RUNTIME void** CUDARTAPI __cudaRegisterFatBinary(void*) {
  static void* token;
  return &token;
}
HIDDEN_RUNTIME void CUDARTAPI __cudaRegisterFatBinaryEnd(void**) {}
HIDDEN_RUNTIME void CUDARTAPI __cudaUnregisterFatBinary(void**) {}
HIDDEN_RUNTIME char CUDARTAPI __cudaInitModule(void**) { return 0; }
HIDDEN_RUNTIME void CUDARTAPI __cudaRegisterFunction(void**, const char*, char*, const char*, int,
                                                     uint3*, uint3*, dim3*, dim3*, int*) {}
HIDDEN_RUNTIME void CUDARTAPI __cudaRegisterVar(void**, char* host, char*, const char*, int,
                                                size_t size, int, int) {
  std::lock_guard<std::mutex> lock(GetRegistry().mu);
  GetRegistry().variables[host].size = size;
}
HIDDEN_RUNTIME unsigned CUDARTAPI __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared,
                                                              cudaStream_t stream) {
  configurations.push_back({grid, block, shared, stream});
  return 0;
}
RUNTIME __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  if (configurations.empty()) return Answer(cudaErrorInvalidConfiguration);
  const Configuration top = configurations.back();
  configurations.pop_back();
  *grid = top.grid;
  *block = top.block;
  *shared = top.shared;
  std::memcpy(stream, &top.stream, sizeof top.stream);
  return cudaSuccess;
}
RUNTIME __cudaGetKernel(cudaKernel_t* out, const void* function) {
  *out = static_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}
RUNTIME __cudaLaunchKernel(cudaKernel_t, dim3 grid, dim3 block, void**, size_t,
                           cudaStream_t stream) {
  return Launch(grid, block, stream);
}
RUNTIME cudaLaunchKernel(const void*, dim3 grid, dim3 block, void**, size_t, cudaStream_t stream) {
  return Launch(grid, block, stream);
}
RUNTIME cudaLaunchCooperativeKernel(const void*, dim3 grid, dim3 block, void**, size_t,
                                    cudaStream_t stream) {
  return Launch(grid, block, stream);
}
RUNTIME cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void*, void**) {
  return Launch(config->gridDim, config->blockDim, config->stream);
}
RUNTIME cudaFuncGetAttributes(cudaFuncAttributes* out, const void*) {
  std::memset(out, 0, sizeof *out);
  out->maxThreadsPerBlock = 1024;
  out->numRegs = 32;
  out->ptxVersion = out->binaryVersion = 90;
  out->maxDynamicSharedSizeBytes = 49152;
  return cudaSuccess;
}
RUNTIME cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
RUNTIME cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* count, const void*, int threads,
                                                      size_t) {
  *count = std::clamp(threads > 0 ? 2048 / threads : 1, 1, 32);
  return cudaSuccess;
}
RUNTIME cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* count, const void* function,
                                                               int threads, size_t shared,
                                                               unsigned) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(count, function, threads, shared);
}
RUNTIME cudaGetSymbolAddress(void** out, const void* symbol) {
  if (const int error = Begin()) return Answer(error);
  std::lock_guard<std::mutex> lock(GetRegistry().mu);
  auto it = GetRegistry().variables.find(symbol);
  if (it == GetRegistry().variables.end()) return Answer(cudaErrorInvalidSymbol);
  if (it->second.device == nullptr) {
    unsigned long long at = 0;
    if (const int error = cuMemAlloc_v2(&at, it->second.size)) return Answer(error);
    it->second.device = Pointer(at);
  }
  *out = it->second.device;
  return cudaSuccess;
}
RUNTIME cudaMemcpyToSymbol(const void* symbol, const void* from, size_t size, size_t offset,
                           cudaMemcpyKind) {
  void* at = nullptr;
  if (const cudaError_t error = cudaGetSymbolAddress(&at, symbol)) return error;
  return Answer(phantomCopy(static_cast<char*>(at) + offset, from, size, nullptr, 1));
}

// ---- captured graphs ----

RUNTIME cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (const int error = Begin()) return Answer(error);
  return Answer(phantomCapture(stream, 1, nullptr));
}
RUNTIME cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  return Answer(phantomCapture(stream, 0, reinterpret_cast<void**>(graph)));
}
RUNTIME cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  if (const int error = Begin()) return Answer(error);
  int capturing = 0;
  const int result = phantomCaptureInfo(stream, &capturing, nullptr, nullptr);
  *status = static_cast<cudaStreamCaptureStatus>(capturing);
  return Answer(result);
}
RUNTIME cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                 unsigned long long* id, cudaGraph_t* graph,
                                 const cudaGraphNode_t** nodes, const cudaGraphEdgeData** edges,
                                 size_t* count) {
  if (const int error = Begin()) return Answer(error);
  int capturing = 0;
  void* captured = nullptr;
  const int result = phantomCaptureInfo(stream, &capturing, id, &captured);
  *status = static_cast<cudaStreamCaptureStatus>(capturing);
  if (graph != nullptr) *graph = static_cast<cudaGraph_t>(captured);
  if (nodes != nullptr) *nodes = nullptr;
  if (edges != nullptr) *edges = nullptr;
  if (count != nullptr) *count = 0;
  return Answer(result);
}
RUNTIME cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  thread_local cudaStreamCaptureMode current = cudaStreamCaptureModeGlobal;
  std::swap(current, *mode);
  return cudaSuccess;
}
RUNTIME cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long) {
  *out = static_cast<cudaGraphExec_t>(phantomGraphClone(graph));
  return cudaSuccess;
}
RUNTIME cudaGraphInstantiateWithFlags(cudaGraphExec_t* out, cudaGraph_t graph,
                                      unsigned long long flags) {
  return cudaGraphInstantiate(out, graph, flags);
}
RUNTIME cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  if (const int error = Begin()) return Answer(error);
  return Answer(phantomGraphLaunch(graph, stream));
}
RUNTIME cudaGraphDestroy(cudaGraph_t graph) {
  phantomGraphFree(graph);
  return cudaSuccess;
}
RUNTIME cudaGraphExecDestroy(cudaGraphExec_t graph) {
  phantomGraphFree(graph);
  return cudaSuccess;
}
RUNTIME cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) {
  *count = phantomGraphSize(graph);
  return cudaSuccess;
}

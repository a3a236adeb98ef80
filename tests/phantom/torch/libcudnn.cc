// The phantom cuDNN: descriptors that hand back what was set, no workspaces, launches without
// values.
#include <cudnn.h>

#include <algorithm>
#include <map>
#include <vector>

#include "libraries.h"

#undef LIBRARY
#define LIBRARY(result, name, parameters)                     \
  PHANTOM_EXPORT result phantom_##name parameters asm(#name); \
  result phantom_##name parameters

using phantom_libraries::Handle;
using phantom_libraries::Work;

LIBRARY(size_t, cudnnGetVersion, ()) { return CUDNN_VERSION; }
LIBRARY(size_t, cudnnGetCudartVersion, ()) { return 13000; }
LIBRARY(const char*, cudnnGetErrorString, (int)) { return "phantom cuDNN error"; }
LIBRARY(int, cudnnCreate, (Handle * *out)) {
  *out = static_cast<Handle*>(std::calloc(1, sizeof(Handle)));
  return 0;
}
LIBRARY(int, cudnnSetStream, (Handle * handle, void* stream)) {
  handle->stream = stream;
  return 0;
}
LIBRARY(int, cudnnGetStream, (Handle * handle, void** stream)) {
  *stream = handle->stream;
  return 0;
}

#define DESCRIPTOR(name)                                 \
  LIBRARY(int, cudnnCreate##name, (void** out)) {        \
    *out = phantom_libraries::Descriptor();              \
    return 0;                                            \
  }                                                      \
  LIBRARY(int, cudnnDestroy##name, (void* descriptor)) { \
    std::free(descriptor);                               \
    return 0;                                            \
  }
DESCRIPTOR(ActivationDescriptor)
DESCRIPTOR(ConvolutionDescriptor)
DESCRIPTOR(DropoutDescriptor)
DESCRIPTOR(FilterDescriptor)
DESCRIPTOR(PoolingDescriptor)
DESCRIPTOR(RNNDescriptor)
DESCRIPTOR(TensorDescriptor)

LIBRARY(int, cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize,
        (void*, int, int, void*, void*, void*, void*, void*, size_t* size)) {
  *size = 0;
  return 0;
}
LIBRARY(int, cudnnGetBatchNormalizationBackwardExWorkspaceSize,
        (void*, int, int, void*, void*, void*, void*, void*, void*, void*, size_t* size)) {
  *size = 0;
  return 0;
}
LIBRARY(int, cudnnGetBatchNormalizationTrainingExReserveSpaceSize,
        (void*, int, int, void*, void*, size_t* size)) {
  *size = 0;
  return 0;
}
LIBRARY(int, cudnnDropoutGetStatesSize, (void*, size_t* size)) {
  *size = 1 << 20;
  return 0;
}

// ---- the graph interface ----

namespace {

struct Value {
  int64_t count = 0;
  std::vector<char> bytes;
};
struct BackendDescriptor {
  int type;
  std::map<int, Value> values;
};

size_t Width(int type) {
  switch (type) {
    case CUDNN_TYPE_BOOLEAN:
    case CUDNN_TYPE_CHAR:
      return 1;
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_DOUBLE:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR:
      return 8;
    case CUDNN_TYPE_FRACTION:
      return 16;
    default:
      return 4;
  }
}

}  // namespace

LIBRARY(int, cudnnBackendCreateDescriptor, (int type, BackendDescriptor** out)) {
  *out = new BackendDescriptor{type, {}};
  return 0;
}
LIBRARY(int, cudnnBackendDestroyDescriptor, (BackendDescriptor * descriptor)) {
  delete descriptor;
  return 0;
}
LIBRARY(int, cudnnBackendFinalize, (BackendDescriptor*)) { return 0; }
LIBRARY(int, cudnnBackendSetAttribute,
        (BackendDescriptor * descriptor, int name, int type, int64_t count, const void* values)) {
  const char* bytes = static_cast<const char*>(values);
  descriptor->values[name] = {count, {bytes, bytes + count * Width(type)}};
  return 0;
}
LIBRARY(int, cudnnBackendGetAttribute,
        (BackendDescriptor * descriptor, int name, int type, int64_t wanted, int64_t* got,
         void* out)) {
  int64_t number = -1;
  switch (name) {
    case CUDNN_ATTR_ENGINEHEUR_RESULTS:
    case CUDNN_ATTR_ENGINECFG_ENGINE:  // the caller's own descriptors are taken as filled
      if (got != nullptr) *got = 1;
      return 0;
    case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE:
    case CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE:
    case CUDNN_ATTR_ENGINE_GLOBAL_INDEX:
      number = 0;
      break;
    case CUDNN_ATTR_OPERATIONGRAPH_ENGINE_GLOBAL_COUNT:
      number = 1;
      break;
    default:
      break;
  }
  if (number >= 0) {
    if (got != nullptr) *got = 1;
    if (out != nullptr && wanted > 0) std::memcpy(out, &number, Width(type));
    return 0;
  }
  auto it = descriptor->values.find(name);
  if (got != nullptr) *got = it == descriptor->values.end() ? 0 : it->second.count;
  if (it == descriptor->values.end() || out == nullptr) return 0;
  std::memcpy(out, it->second.bytes.data(),
              std::min<size_t>(wanted * Width(type), it->second.bytes.size()));
  return 0;
}
LIBRARY(int, cudnnBackendExecute, (Handle * handle, void*, void*)) { return Work(handle); }

#define WORK(name) \
  LIBRARY(int, name, (Handle * handle)) { return Work(handle); }
WORK(cudnnBatchNormalizationForwardTrainingEx)
WORK(cudnnBatchNormalizationBackwardEx)
WORK(cudnnBatchNormalizationForwardInference)

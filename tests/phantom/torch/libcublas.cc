// The phantom cuBLAS and cuBLASLt: memory traffic and launches, no values.
#include <dlfcn.h>

#include "libraries.h"

using phantom_libraries::Descriptor;
using phantom_libraries::Handle;
using phantom_libraries::Work;

#define GEMM(name) \
  LIBRARY(int, name, (Handle * handle)) { return Work(handle); }

#ifdef PHANTOM_CUBLAS
LIBRARY(int, cublasCreate_v2, (Handle * *out)) {
  // As the real one it takes device memory by itself: on a full device there is no handle.
  constexpr size_t kHandleBytes = size_t{2} << 20;
  constexpr int kAllocationFailed = 3;
  using Allocate = int (*)(void**, size_t);
  static const auto allocate = reinterpret_cast<Allocate>(dlsym(RTLD_DEFAULT, "cudaMalloc"));
  void* memory = nullptr;
  if (allocate == nullptr || allocate(&memory, kHandleBytes) != 0) return kAllocationFailed;
  *out = static_cast<Handle*>(std::calloc(1, sizeof(Handle)));
  return 0;
}
LIBRARY(int, cublasDestroy_v2, (Handle * handle)) {
  std::free(handle);
  return 0;
}
LIBRARY(int, cublasSetStream_v2, (Handle * handle, void* stream)) {
  handle->stream = stream;
  return 0;
}
LIBRARY(int, cublasGetStream_v2, (Handle * handle, void** stream)) {
  *stream = handle->stream;
  return 0;
}
LIBRARY(int, cublasSetMathMode, (Handle * handle, int mode)) {
  handle->math_mode = mode;
  return 0;
}
LIBRARY(int, cublasGetMathMode, (Handle * handle, int* mode)) {
  *mode = handle->math_mode;
  return 0;
}
LIBRARY(int, cublasSetPointerMode_v2, (Handle * handle, int mode)) {
  handle->pointer_mode = mode;
  return 0;
}
LIBRARY(int, cublasGetPointerMode_v2, (Handle * handle, int* mode)) {
  *mode = handle->pointer_mode;
  return 0;
}
LIBRARY(int, cublasGetVersion_v2, (Handle*, int* version)) {
  *version = 130000;
  return 0;
}
GEMM(cublasSgemm_v2)
GEMM(cublasDgemm_v2)
GEMM(cublasGemmEx)
GEMM(cublasSgemmEx)
GEMM(cublasGemmStridedBatchedEx)
GEMM(cublasSgemmStridedBatched)
GEMM(cublasDgemmStridedBatched)
GEMM(cublasGemmBatchedEx)
GEMM(cublasSgemv_v2)
GEMM(cublasDgemv_v2)
GEMM(cublasDotEx)
GEMM(cublasSdot_v2)
#endif

#ifdef PHANTOM_CUBLASLT
#include <cublasLt.h>
#undef LIBRARY
// The header's prototypes are stricter than ours: the names are given to the linker alone.
#define LIBRARY(result, name, parameters)                     \
  PHANTOM_EXPORT result phantom_##name parameters asm(#name); \
  result phantom_##name parameters

LIBRARY(int, cublasLtCreate, (void** out)) {
  *out = Descriptor();
  return 0;
}
LIBRARY(size_t, cublasLtGetVersion, ()) { return 130000; }
LIBRARY(int, cublasLtMatmulDescCreate, (void** out, int, int)) {
  *out = Descriptor();
  return 0;
}
LIBRARY(int, cublasLtMatmulDescDestroy, (void* descriptor)) {
  std::free(descriptor);
  return 0;
}
LIBRARY(int, cublasLtMatmulPreferenceCreate, (void** out)) {
  *out = Descriptor();
  return 0;
}
LIBRARY(int, cublasLtMatmulPreferenceDestroy, (void* descriptor)) {
  std::free(descriptor);
  return 0;
}
LIBRARY(int, cublasLtMatrixLayoutCreate, (void** out, int, uint64_t, uint64_t, int64_t)) {
  *out = Descriptor();
  return 0;
}
LIBRARY(int, cublasLtMatrixLayoutDestroy, (void* descriptor)) {
  std::free(descriptor);
  return 0;
}
LIBRARY(int, cublasLtMatmulAlgoGetHeuristic,
        (void*, void*, void*, void*, void*, void*, void*, int wanted,
         cublasLtMatmulHeuristicResult_t* out, int* got)) {
  *got = wanted > 0 ? 1 : 0;
  if (wanted > 0) std::memset(out, 0, sizeof *out);
  return 0;
}
LIBRARY(int, cublasLtMatmul,
        (void*, void*, const void*, const void*, void*, const void*, void*, const void*,
         const void*, void*, void*, void*, const void*, void*, size_t, void* stream)) {
  const Handle handle = {stream, 0, 0};
  return Work(&handle);
}
#endif

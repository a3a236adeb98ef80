// Device memory by whole segments, where PyTorch's table of driver calls is out of reach: its
// cudaMalloc and cudaFree redirected, or functions for a pool of its own.
#pragma once

#include <string>

#include "runtime/core_api.h"

namespace tide::torch_hooks {

/// Points the cudaMalloc and cudaFree of the libc10_cuda that is loaded at the core. Returns an
/// empty string or why it refused; then nothing has been changed. Idempotent.
std::string RedirectCudaMalloc(const TideCoreApi* api);
/// Puts both back. What is alive stays with the core: the caller has seen that nothing is.
void RestoreCudaMalloc();
bool CudaMallocRedirected();

/// Lets tide_pool_allocate and tide_pool_free of this library, which a torch.cuda.MemPool can be
/// given, reach the core. Returns an empty string or why not.
std::string ServePool(const TideCoreApi* api);

}  // namespace tide::torch_hooks

// PyTorch's table of driver calls: its entries are found by value and pointed at the core.
#pragma once

#include <string>

#include "runtime/core_api.h"

namespace tide::torch_hooks {

/// Where each call of `calls` stands among the `count` words of a table. A pure function: `slots`
/// gets one index a call. Returns an empty string or which call was found never or more than once.
/// `more[i]`, where not null, is one more address of call i.
std::string FindCudaSlots(const void* const* words, int count, const TideCudaCall* calls,
                          int call_count, const void* const* more, int* slots);

/// Replaces the entries of c10::cuda::DriverAPI in the libc10_cuda that is loaded. Returns an empty
/// string or why it refused; then nothing has been changed. Idempotent.
std::string InstallCudaSlots(const TideCoreApi* api);
/// Puts back what stood there; memory that is alive stays with the core, whose calls pass through.
void RemoveCudaSlots();
bool CudaSlotsInstalled();

}  // namespace tide::torch_hooks

// What the files of the phantom libcudart share.
#pragma once

#include <cuda_runtime_api.h>

#include "phantom_c.h"

#define RUNTIME PHANTOM_EXPORT cudaError_t CUDARTAPI

namespace phantom_runtime {

/// The result as the runtime's error, remembered for cudaGetLastError. The two number the errors
/// used here alike.
cudaError_t Answer(int result);
/// Starts the driver on the thread's device, as every runtime call does.
int Begin();
inline void* Pointer(unsigned long long at) { return reinterpret_cast<void*>(at); }
inline unsigned long long Number(const void* at) {
  return reinterpret_cast<unsigned long long>(at);
}

}  // namespace phantom_runtime

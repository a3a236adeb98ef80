// PyTorch's CPU allocator on top of the core: blocks of 1 MiB and more live on our pages, the rest
// stay where they were.
#pragma once

#include <string>

#include "runtime/core_api.h"

namespace tide::torch_hooks {

/// Installs the allocator (once; later calls do nothing). `api` lives as long as the process.
/// Returns an empty string or why not.
std::string InstallCpuAllocator(const TideCoreApi* api);
bool CpuAllocatorInstalled();

}  // namespace tide::torch_hooks

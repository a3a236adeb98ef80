#include "torch_hooks/cpu_allocator.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>

#include <cstring>

namespace tide::torch_hooks {
namespace {

// The one mutable global that torch forces on us: a deleter is a plain function pointer without
// context, since c10 asks for context == data.
const TideCoreApi* g_api = nullptr;
c10::Allocator* g_previous = nullptr;
c10::DeleterFnPtr g_previous_deleter = nullptr;

void Delete(void* pointer) {
  if (pointer == nullptr) return;
  if (!g_api->owns(pointer)) {
    g_previous_deleter(pointer);  // born before the hook, or small
    return;
  }
  c10::profiledCPUMemoryReporter().Delete(pointer);
  g_api->release(pointer);
}

class CpuAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t size) override {
    void* data = nullptr;
    char message[4096];
    switch (g_api->allocate(size, &data, message, sizeof message)) {
      case TIDE_ALLOCATED:
        c10::profiledCPUMemoryReporter().New(data, size);
        break;
      case TIDE_OUT_OF_MEMORY:
        c10::profiledCPUMemoryReporter().OutOfMemory(size);
        TORCH_CHECK_WITH(OutOfMemoryError, false, message);
      default:
        data = size == 0 ? nullptr : g_previous->raw_allocate(size);
    }
    return {data, data, &Delete, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &Delete; }
  void copy_data(void* to, const void* from, std::size_t size) const override {
    default_copy_data(to, from, size);
  }
};

}  // namespace

std::string InstallCpuAllocator(const TideCoreApi* api) {
  if (g_api != nullptr) return "";
  if (api == nullptr || api->version != TIDE_CORE_API_VERSION ||
      api->struct_size < sizeof(TideCoreApi)) {
    return "the core module and the torch adapter are of different versions; reinstall torchtide";
  }
  g_previous = c10::GetAllocator(c10::DeviceType::CPU);
  g_previous_deleter = g_previous->raw_deleter();
  if (g_previous_deleter == nullptr)
    return "the current CPU allocator has no raw deleter to chain to";
  g_api = api;
  // Never freed: storages keep a pointer to their allocator past shutdown.
  static CpuAllocator* const allocator = new CpuAllocator;
  c10::SetAllocator(c10::DeviceType::CPU, allocator, /*priority=*/0);
  if (c10::GetAllocator(c10::DeviceType::CPU) == allocator) return "";
  g_api = nullptr;
  return "another CPU allocator was set with a higher priority";
}

bool CpuAllocatorInstalled() { return g_api != nullptr; }

}  // namespace tide::torch_hooks

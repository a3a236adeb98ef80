// The phantom driver: modules and their kernels, which are found and launched as nothing. Triton's
// code (torch.compile) is loaded through these.
#include <algorithm>
#include <cstring>
#include <fstream>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "phantom/driver.h"

using phantom::GetStreams;
namespace cuda = phantom::cuda;

namespace {

struct Function {
  std::vector<bool> wide;  // of each parameter: whether it has the size of an address
  std::unordered_map<int, int> attributes;
};
struct Module {
  std::string image;  // as far as its size is known: names are looked for in it
  std::unordered_map<std::string, std::unique_ptr<Function>> functions;
};
struct Registry {
  std::mutex mu;
  std::unordered_map<void*, std::unique_ptr<Module>> modules;
  std::unordered_set<void*> functions;
};
Registry& GetRegistry() {
  static Registry& registry = *new Registry;
  return registry;
}

// CUfunction_attribute and CUlimit by their numbers.
constexpr int kMaxThreads = 0, kSharedStatic = 1, kLocalBytes = 3, kRegisters = 4,
              kMaxDynamicShared = 8;
constexpr int kSharedOptIn = 97;  // CUdevice_attribute
constexpr int kLimitsMax = 8;
size_t limits[kLimitsMax] = {1024, 1 << 20, 8 << 20};
std::mutex limits_mu;

/// Bytes of a cubin, which is an ELF file: its headers of sections lie last. 0 for anything else.
size_t ImageSize(const char* image) {
  constexpr size_t kSectionsAt = 40, kSectionSize = 58, kSectionCount = 60;
  if (std::memcmp(image,
                  "\x7f"
                  "ELF",
                  4) != 0)
    return 0;
  uint64_t at = 0;
  uint16_t size = 0, count = 0;
  std::memcpy(&at, image + kSectionsAt, sizeof at);
  std::memcpy(&size, image + kSectionSize, sizeof size);
  std::memcpy(&count, image + kSectionCount, sizeof count);
  return at + size_t{size} * count;
}

template <typename Number>
Number At(const std::string& image, uint64_t offset) {
  Number number = 0;
  if (offset + sizeof number <= image.size())
    std::memcpy(&number, image.data() + offset, sizeof number);
  return number;
}

/// What ".nv.info.NAME" says of the parameters of kernel NAME: an entry has a format and an
/// attribute, a byte each, then 16 bits, which are the length of what follows in format 4.
/// Attribute 0x17 is a parameter: index (32 bits), ordinal and offset (16 each), and 32 bits of
/// which the upper 14 are its size.
std::vector<bool> WideParameters(const std::string& image, const std::string& name) {
  constexpr uint64_t kHeader = 64;  // of a section: name, type, flags, address, offset, size
  const uint64_t sections = At<uint64_t>(image, 40);
  const uint64_t count = At<uint16_t>(image, 60);
  const uint64_t names = At<uint64_t>(image, sections + kHeader * At<uint16_t>(image, 62) + 24);
  std::vector<bool> wide;
  for (uint64_t section = sections; section < sections + kHeader * count; section += kHeader) {
    const uint64_t at = names + At<uint32_t>(image, section);
    if (at >= image.size() || (".nv.info." + name) != image.data() + at) continue;
    uint64_t entry = At<uint64_t>(image, section + 24);
    const uint64_t end = entry + At<uint64_t>(image, section + 32);
    while (entry < end) {
      const bool has_data = At<uint8_t>(image, entry) == 4;
      const uint64_t data = entry + 4;
      if (has_data && At<uint8_t>(image, entry + 1) == 0x17) {
        const size_t ordinal = At<uint16_t>(image, data + 4);
        if (wide.size() <= ordinal) wide.resize(ordinal + 1);
        wide[ordinal] = At<uint32_t>(image, data + 8) >> 18 == sizeof(phantom::Address);
      }
      entry = data + (has_data ? At<uint16_t>(image, entry + 2) : 0);
    }
  }
  return wide;
}

cuda::Result Launch(void* handle, const unsigned* grid, const unsigned* block, void* stream,
                    void** parameters) {
  std::vector<phantom::Address> values;
  {
    std::lock_guard<std::mutex> lock(GetRegistry().mu);
    if (GetRegistry().functions.count(handle) == 0) return cuda::kInvalidHandle;
    const std::vector<bool>& wide = static_cast<Function*>(handle)->wide;
    for (size_t i = 0; parameters != nullptr && i < wide.size(); ++i) {
      if (wide[i]) std::memcpy(&values.emplace_back(), parameters[i], sizeof(phantom::Address));
    }
  }
  return GetStreams().Launch(stream, grid, block, values);
}

}  // namespace

DRIVER cuModuleLoadData(void** out, const void* image) {
  ENTER("cuModuleLoadData");
  constexpr cuda::Result kInvalidImage = 200;
  const char* bytes = static_cast<const char*>(image);
  const size_t size = ImageSize(bytes);
  if (size == 0) return kInvalidImage;
  auto module = std::make_unique<Module>();
  module->image.assign(bytes, size);
  std::lock_guard<std::mutex> lock(GetRegistry().mu);
  *out = module.get();
  GetRegistry().modules[*out] = std::move(module);
  return cuda::kSuccess;
}
DRIVER cuModuleLoadDataEx(void** out, const void* image, unsigned, int*, void**) {
  return cuModuleLoadData(out, image);
}
DRIVER cuModuleLoad(void** out, const char* path) {
  constexpr cuda::Result kFileNotFound = 301;
  std::ifstream file(path, std::ios::binary);
  std::stringstream image;
  image << file.rdbuf();
  return file.good() ? cuModuleLoadData(out, image.str().c_str()) : kFileNotFound;
}
DRIVER cuModuleUnload(void* module) {
  ENTER("cuModuleUnload");
  Registry& registry = GetRegistry();
  std::lock_guard<std::mutex> lock(registry.mu);
  auto it = registry.modules.find(module);
  if (it == registry.modules.end()) return cuda::kInvalidHandle;
  for (auto& [name, function] : it->second->functions) registry.functions.erase(function.get());
  registry.modules.erase(it);
  return cuda::kSuccess;
}
DRIVER cuModuleGetFunction(void** out, void* module, const char* name) {
  ENTER("cuModuleGetFunction");
  Registry& registry = GetRegistry();
  std::lock_guard<std::mutex> lock(registry.mu);
  auto it = registry.modules.find(module);
  if (it == registry.modules.end()) return cuda::kInvalidHandle;
  // A kernel's code is in a section of this name.
  if (it->second->image.find(std::string(".text.") + name) == std::string::npos)
    return cuda::kNotFound;
  auto& function = it->second->functions[name];
  if (function == nullptr) {
    function = std::make_unique<Function>();
    function->wide = WideParameters(it->second->image, name);
    function->attributes = {{kMaxThreads, 1024},
                            {kSharedStatic, 0},
                            {kLocalBytes, 0},
                            {kRegisters, 32},
                            {kMaxDynamicShared, 49152}};
    registry.functions.insert(function.get());
  }
  *out = function.get();
  return cuda::kSuccess;
}
DRIVER cuFuncGetAttribute(int* value, int attribute, void* handle) {
  std::lock_guard<std::mutex> lock(GetRegistry().mu);
  if (GetRegistry().functions.count(handle) == 0) return cuda::kInvalidHandle;
  *value = static_cast<Function*>(handle)->attributes[attribute];
  return cuda::kSuccess;
}
DRIVER cuFuncSetAttribute(void* handle, int attribute, int value) {
  std::lock_guard<std::mutex> lock(GetRegistry().mu);
  if (GetRegistry().functions.count(handle) == 0) return cuda::kInvalidHandle;
  if (attribute == kMaxDynamicShared && value > phantom::Attribute(kSharedOptIn, 0))
    return cuda::kInvalidValue;
  static_cast<Function*>(handle)->attributes[attribute] = value;
  return cuda::kSuccess;
}
DRIVER cuFuncSetCacheConfig(void*, int) { return cuda::kSuccess; }
DRIVER cuCtxGetLimit(size_t* value, int limit) {
  if (limit < 0 || limit >= kLimitsMax) return cuda::kInvalidValue;
  std::lock_guard<std::mutex> lock(limits_mu);
  *value = limits[limit];
  return cuda::kSuccess;
}
DRIVER cuCtxSetLimit(int limit, size_t value) {
  if (limit < 0 || limit >= kLimitsMax) return cuda::kInvalidValue;
  std::lock_guard<std::mutex> lock(limits_mu);
  limits[limit] = value;
  return cuda::kSuccess;
}
DRIVER cuOccupancyMaxActiveBlocksPerMultiprocessor(int* count, void*, int threads, size_t) {
  *count = std::clamp(threads > 0 ? 2048 / threads : 1, 1, 32);
  return cuda::kSuccess;
}
DRIVER cuOccupancyMaxActiveClusters(int* count, void*, const void*) {
  *count = phantom::Attribute(16, 0);  // one a multiprocessor
  return cuda::kSuccess;
}
/// A descriptor that only a kernel reads.
DRIVER cuTensorMapEncodeTiled(void* map, int, unsigned, void*, const uint64_t*, const uint64_t*,
                              const unsigned*, const unsigned*, int, int, int, int) {
  constexpr size_t kDescriptorBytes = 128;
  std::memset(map, 0, kDescriptorBytes);
  return cuda::kSuccess;
}

DRIVER cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                      unsigned block_x, unsigned block_y, unsigned block_z, unsigned, void* stream,
                      void** parameters, void**) {
  ENTER("cuLaunchKernel");
  const unsigned grid[] = {grid_x, grid_y, grid_z}, block[] = {block_x, block_y, block_z};
  return Launch(function, grid, block, stream, parameters);
}
DRIVER cuLaunchCooperativeKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                                 unsigned block_x, unsigned block_y, unsigned block_z,
                                 unsigned shared, void* stream, void** parameters) {
  return cuLaunchKernel(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream,
                        parameters, nullptr);
}
/// CUlaunchConfig, as far as it matters here.
struct LaunchConfig {
  unsigned grid[3], block[3];
  unsigned shared_bytes;
  void* stream;
};
DRIVER cuLaunchKernelEx(const LaunchConfig* config, void* function, void** parameters, void**) {
  ENTER("cuLaunchKernel");
  return Launch(function, config->grid, config->block, config->stream, parameters);
}

#include "torch_hooks/cuda_slots.h"

#include <dlfcn.h>

#include <vector>

namespace tide::torch_hooks {
namespace {

// The table has grown from 20 to about 45 entries over the versions read (2.2 to 2.15).
constexpr int kTableWords = 64;
// Mangled c10::cuda::DriverAPI::get(); exported by every version from 2.11 to 2.15.
constexpr char kTableGetter[] = "_ZN3c104cuda9DriverAPI3getEv";
constexpr unsigned kTorchsCudaVersion = 12000;  // with which torch asks for entry points

struct Replaced {
  void** slot;
  void* previous;
};
// Forced on us by torch: its table is one per process, and so is what we did to it.
std::vector<Replaced> g_replaced;

void* SymbolOfLoaded(const char* library, const char* name) {
  void* handle = dlopen(library, RTLD_NOW | RTLD_NOLOAD);
  if (handle == nullptr) return nullptr;
  void* symbol = dlsym(handle, name);
  dlclose(handle);
  return symbol;
}

/// The address that the CUDA runtime gives torch, which may be yet another one.
void* RuntimeEntryPoint(const char* name) {
  using EntryPoint = int (*)(const char*, void**, unsigned, unsigned long long, int*);
  void* symbol = nullptr;
  for (const char* runtime : {"libcudart.so.13", "libcudart.so.12"}) {
    if (symbol == nullptr) symbol = SymbolOfLoaded(runtime, "cudaGetDriverEntryPointByVersion");
  }
  void* address = nullptr;
  int found = 0;
  if (symbol == nullptr ||
      reinterpret_cast<EntryPoint>(symbol)(name, &address, kTorchsCudaVersion, 0, &found) != 0) {
    return nullptr;
  }
  return address;
}

}  // namespace

std::string FindCudaSlots(const void* const* words, int count, const TideCudaCall* calls,
                          int call_count, const void* const* more, int* slots) {
  for (int i = 0; i < call_count; ++i) {
    int hits = 0;
    for (int word = 0; word < count; ++word) {
      bool hit = words[word] != nullptr && words[word] == more[i];
      for (const void* candidate : calls[i].candidates) {
        hit = hit || (words[word] != nullptr && words[word] == candidate);
      }
      if (!hit) continue;
      slots[i] = word;
      ++hits;
    }
    if (hits != 1) {
      return std::string("PyTorch's table of driver calls holds ") + calls[i].name + " " +
             std::to_string(hits) + " times, not once";
    }
  }
  return "";
}

std::string InstallCudaSlots(const TideCoreApi* api) {
  if (!g_replaced.empty()) return "";
  if (api == nullptr || api->struct_size < sizeof(TideCoreApi)) {
    return "the core module and the torch adapter are of different versions; reinstall torchtide";
  }
  if (api->cuda_call_count == 0) return "device memory has not been started";
  using Getter = void* (*)();
  auto getter = reinterpret_cast<Getter>(SymbolOfLoaded("libc10_cuda.so", kTableGetter));
  if (getter == nullptr) return "this PyTorch has no CUDA, or its table of driver calls is hidden";
  void** const table = static_cast<void**>(getter());
  std::vector<const void*> more(api->cuda_call_count);
  for (int i = 0; i < api->cuda_call_count; ++i) {
    more[i] = RuntimeEntryPoint(api->cuda_calls[i].name);
  }
  std::vector<int> slots(api->cuda_call_count);
  std::string why = FindCudaSlots(table, kTableWords, api->cuda_calls, api->cuda_call_count,
                                  more.data(), slots.data());
  if (!why.empty()) return why;
  for (int i = 0; i < api->cuda_call_count; ++i) {
    void** const slot = table + slots[i];
    g_replaced.push_back({slot, *slot});
    // Aligned pointers: a thread of the allocator sees the old call or the new one, and the core
    // passes on what was born before it.
    __atomic_store_n(slot, api->cuda_calls[i].replacement, __ATOMIC_RELEASE);
  }
  return "";
}

void RemoveCudaSlots() {
  for (const Replaced& entry : g_replaced) {
    __atomic_store_n(entry.slot, entry.previous, __ATOMIC_RELEASE);
  }
  g_replaced.clear();
}

bool CudaSlotsInstalled() { return !g_replaced.empty(); }

}  // namespace tide::torch_hooks

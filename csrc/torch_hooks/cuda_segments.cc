#include "torch_hooks/cuda_segments.h"

#include <dlfcn.h>
#include <sys/types.h>

#include "torch_hooks/got_slots.h"

namespace tide::torch_hooks {
namespace {

constexpr char kAllocator[] = "libc10_cuda.so";

using Malloc = int (*)(void**, size_t);
using Free = int (*)(void*);
using GetDevice = int (*)(int*);

// Forced on us by torch: it calls through words of its own, one a process, with no context.
struct Redirection {
  const TideCoreApi* api = nullptr;
  GotSlot malloc_slot, free_slot;
  Malloc malloc_before = nullptr;
  Free free_before = nullptr;
  GetDevice get_device = nullptr;
};
Redirection g_redirection;
const TideCoreApi* g_pool_api = nullptr;

int MallocFromCore(void** out, size_t size) {
  int device = 0;
  if (const int error = g_redirection.get_device(&device)) return error;
  const int result = g_redirection.api->segment_allocate(device, size, out);
  return result == TIDE_NOT_OURS ? g_redirection.malloc_before(out, size) : result;
}

int FreeToCore(void* at) {
  const int result = at == nullptr ? TIDE_NOT_OURS : g_redirection.api->segment_release(at);
  return result == TIDE_NOT_OURS ? g_redirection.free_before(at) : result;
}

/// Where the loader finds a function of the CUDA runtime: in front of everything, and in it.
std::vector<void*> AddressesOf(const char* function) {
  std::vector<void*> addresses = {dlsym(RTLD_DEFAULT, function)};
  for (const char* runtime : {"libcudart.so.13", "libcudart.so.12"}) {
    void* handle = dlopen(runtime, RTLD_NOW | RTLD_NOLOAD);
    if (handle == nullptr) continue;
    addresses.push_back(dlsym(handle, function));
    dlclose(handle);
  }
  return addresses;
}

void* FirstOf(const std::vector<void*>& addresses) {
  for (void* address : addresses) {
    if (address != nullptr) return address;
  }
  return nullptr;
}

std::string RefuseApi(const TideCoreApi* api) {
  if (api == nullptr || api->struct_size < sizeof(TideCoreApi)) {
    return "the core module and the torch adapter are of different versions; reinstall torchtide";
  }
  return api->segment_allocate == nullptr ? "device memory has not been started" : "";
}

}  // namespace

std::string RedirectCudaMalloc(const TideCoreApi* api) {
  if (CudaMallocRedirected()) return "";
  std::string why = RefuseApi(api);
  if (!why.empty()) return why;
  Redirection made;
  made.api = api;
  made.get_device = reinterpret_cast<GetDevice>(FirstOf(AddressesOf("cudaGetDevice")));
  if (made.get_device == nullptr) return "the CUDA runtime is not to be found";
  const std::vector<void*> mallocs = AddressesOf("cudaMalloc"), frees = AddressesOf("cudaFree");
  why = FindGotSlot(kAllocator, "cudaMalloc", mallocs, &made.malloc_slot);
  if (why.empty()) why = FindGotSlot(kAllocator, "cudaFree", frees, &made.free_slot);
  if (!why.empty()) return why;
  // What stood there, so that whoever had been put in front of the runtime stays in front of it.
  made.malloc_before = reinterpret_cast<Malloc>(made.malloc_slot.previous);
  made.free_before = reinterpret_cast<Free>(made.free_slot.previous);
  g_redirection = made;
  // First the function that takes back: what the other one gives must find its way.
  why = WriteGotSlot(made.free_slot.at, reinterpret_cast<void*>(&FreeToCore));
  if (why.empty()) {
    why = WriteGotSlot(made.malloc_slot.at, reinterpret_cast<void*>(&MallocFromCore));
    if (!why.empty()) WriteGotSlot(made.free_slot.at, made.free_slot.previous);
  }
  if (!why.empty()) g_redirection.malloc_slot.at = nullptr;
  return why;
}

void RestoreCudaMalloc() {
  if (!CudaMallocRedirected()) return;
  WriteGotSlot(g_redirection.malloc_slot.at, g_redirection.malloc_slot.previous);
  WriteGotSlot(g_redirection.free_slot.at, g_redirection.free_slot.previous);
  g_redirection.malloc_slot.at = nullptr;  // a thread that is inside still finds the rest
}

bool CudaMallocRedirected() { return g_redirection.malloc_slot.at != nullptr; }

std::string ServePool(const TideCoreApi* api) {
  std::string why = RefuseApi(api);
  if (why.empty()) g_pool_api = api;
  return why;
}

}  // namespace tide::torch_hooks

// What torch.cuda.memory.CUDAPluggableAllocator looks up by name: no interpreter's lock, no error
// but null.
extern "C" __attribute__((visibility("default"))) void* tide_pool_allocate(ssize_t size, int device,
                                                                           void* stream) {
  (void)stream;
  using tide::torch_hooks::g_pool_api;
  void* out = nullptr;
  if (g_pool_api == nullptr || size < 0) return nullptr;
  return g_pool_api->segment_allocate(device, static_cast<size_t>(size), &out) == 0 ? out : nullptr;
}

extern "C" __attribute__((visibility("default"))) void tide_pool_free(void* at, ssize_t size,
                                                                      int device, void* stream) {
  (void)size, (void)device, (void)stream;
  using tide::torch_hooks::g_pool_api;
  if (g_pool_api != nullptr) g_pool_api->segment_release(at);
}

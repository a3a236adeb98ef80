// dlopen with names of its own: nothing of the library is seen by others.
#include "base/shared_library.h"

#include <dlfcn.h>

namespace tide {

absl::StatusOr<SharedLibrary> SharedLibrary::Open(const std::string& name) {
  void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return absl::NotFoundError(dlerror());
  return SharedLibrary(handle);
}

void* SharedLibrary::Find(const char* symbol) const { return dlsym(handle_, symbol); }

}  // namespace tide

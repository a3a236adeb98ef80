// A library that is opened when it is first needed, so that who does not need it need not have it.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace tide {

/// Open until the process ends: code of it may be on a stack.
class SharedLibrary {
 public:
  /// Errors: NotFound with what the system said.
  static absl::StatusOr<SharedLibrary> Open(const std::string& name);
  /// The address of a symbol; nullptr: it has none of that name.
  void* Find(const char* symbol) const;

 private:
  explicit SharedLibrary(void* handle) : handle_(handle) {}
  void* handle_;
};

}  // namespace tide

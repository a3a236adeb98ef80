// How the stand-ins for NVIDIA's math libraries are written: handles that remember a stream, work
// that launches one kernel that does nothing.
#pragma once

#include <cstdlib>
#include <cstring>

#include "phantom_c.h"

/// Exports `name` with our own, laxer parameters; the body follows. No header of NVIDIA declares
/// it here.
#define LIBRARY(result, name, parameters) PHANTOM_EXPORT result name parameters

namespace phantom_libraries {

struct Handle {
  void* stream;
  int math_mode;
  int pointer_mode;
};

inline int Work(const Handle* handle) {
  const unsigned one[] = {1, 1, 1}, warp[] = {32, 1, 1};
  return phantomLaunch(handle->stream, one, warp);
}
inline void* Descriptor() { return std::calloc(1, 256); }

}  // namespace phantom_libraries

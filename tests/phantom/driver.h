// How an entry point of the phantom driver is written.
#pragma once

#include "pages/cuda_driver.h"
#include "phantom/faults.h"
#include "phantom/memory.h"
#include "phantom/streams.h"

#define PHANTOM_EXPORT extern "C" __attribute__((visibility("default")))
#define DRIVER PHANTOM_EXPORT phantom::cuda::Result
/// First line of an entry point: counts the call, and makes it fail, or do nothing and say that it
/// has, where a test asked for it.
/// Blocks while another process has this one locked.
#define ENTER(name)                   \
  const phantom::InCall being_in_one; \
  ENTER_LOCKED(name)
/// The same for what a process does to another.
#define ENTER_LOCKED(name)                           \
  if (const int injected = phantom::EnterCall(name)) \
  return injected == phantom::kNothingDone ? 0 : injected

namespace phantom {

inline constexpr cuda::Result kIllegalState = 401;  // CUDA_ERROR_ILLEGAL_STATE

/// While one lives, its process cannot be locked (cuCheckpointProcessLock); it begins when the
/// process is not. Calls inside of calls are one.
class InCall {
 public:
  InCall();
  ~InCall();
  InCall(const InCall&) = delete;
  InCall& operator=(const InCall&) = delete;

 private:
  bool counted_ = false;
};

inline Address ToAddress(const void* pointer) { return reinterpret_cast<Address>(pointer); }
/// Figures of the device by the driver's attribute numbers; 0 for what the phantom has not.
int Attribute(int attribute, int device);
/// The address that the driver's own look-up gives, or null. Those of the virtual memory calls
/// differ from what dlsym finds, since drivers may do that.
void* LookUp(const char* name, bool for_runtime);

}  // namespace phantom

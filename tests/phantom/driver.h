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
#define ENTER(name)                                  \
  if (const int injected = phantom::EnterCall(name)) \
  return injected == phantom::kNothingDone ? 0 : injected

namespace phantom {

inline Address ToAddress(const void* pointer) { return reinterpret_cast<Address>(pointer); }
/// Figures of the device by the driver's attribute numbers; 0 for what the phantom has not.
int Attribute(int attribute, int device);
/// The address that the driver's own look-up gives, or null. Those of the virtual memory calls
/// differ from what dlsym finds, since drivers may do that.
void* LookUp(const char* name, bool for_runtime);

}  // namespace phantom

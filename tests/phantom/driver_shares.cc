// The phantom driver: green contexts. Kernels do nothing here, so a share is a count and a stream.
#include <cstdlib>
#include <mutex>
#include <set>

#include "phantom/driver.h"
#include "phantom/settings.h"

using phantom::GetSettings;
using phantom::GetStreams;
namespace cuda = phantom::cuda;

namespace {

constexpr int kMultiprocessorsType = 1;
constexpr unsigned kUnit = 8;  // of the Hopper class: shares are multiples of it

struct Green {
  unsigned multiprocessors;
};
std::mutex mu;
std::set<void*>& Live() {
  static auto& live = *new std::set<void*>;
  return live;
}
bool IsLive(void* thing) {
  std::lock_guard<std::mutex> lock(mu);
  return Live().count(thing) != 0;
}

}  // namespace

DRIVER cuDeviceGetDevResource(int device, cuda::DeviceResource* out, int type) {
  ENTER("cuDeviceGetDevResource");
  if (!GetSettings().green_contexts) return cuda::kNotSupported;
  if (type != kMultiprocessorsType) return cuda::kInvalidValue;
  *out = {};
  out->type = type;
  out->multiprocessors = static_cast<unsigned>(phantom::Attribute(16, device));
  return cuda::kSuccess;
}

DRIVER cuDevSmResourceSplitByCount(cuda::DeviceResource* out, unsigned* groups,
                                   const cuda::DeviceResource* in, cuda::DeviceResource* rest,
                                   unsigned, unsigned least) {
  ENTER("cuDevSmResourceSplitByCount");
  if (in->type != kMultiprocessorsType || least > in->multiprocessors) return cuda::kInvalidValue;
  const unsigned each = (least + kUnit - 1) / kUnit * kUnit;
  if (*groups != 1 || each > in->multiprocessors) return cuda::kInvalidValue;
  *out = *in;
  out->multiprocessors = each;
  *rest = *in;
  rest->multiprocessors -= each;
  return cuda::kSuccess;
}

DRIVER cuDevResourceGenerateDesc(void** out, cuda::DeviceResource* resources, unsigned count) {
  ENTER("cuDevResourceGenerateDesc");
  if (count != 1 || resources->type != kMultiprocessorsType) return cuda::kInvalidValue;
  *out = new Green{resources->multiprocessors};
  return cuda::kSuccess;
}

DRIVER cuGreenCtxCreate(void** out, void* described, int, unsigned flags) {
  ENTER("cuGreenCtxCreate");
  if (flags != 1 || described == nullptr) return cuda::kInvalidValue;
  std::lock_guard<std::mutex> lock(mu);
  Live().insert(described);
  *out = described;
  return cuda::kSuccess;
}

DRIVER cuGreenCtxDestroy(void* green) {
  ENTER("cuGreenCtxDestroy");
  std::lock_guard<std::mutex> lock(mu);
  return Live().erase(green) != 0 ? cuda::kSuccess : cuda::kInvalidContext;
}

DRIVER cuGreenCtxStreamCreate(void** out, void* green, unsigned flags, int priority) {
  ENTER("cuGreenCtxStreamCreate");
  // The driver takes only streams that wait for no other.
  if (!IsLive(green) || flags != cuda::kStreamWaitsForNoOther) return cuda::kInvalidValue;
  return GetStreams().Create(flags, priority, out);
}

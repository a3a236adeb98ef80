#include "pages/cuda_driver.h"

#include <dlfcn.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"

namespace tide::pages::cuda {
namespace {

struct Entry {
  const char* name;
  void** slot;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Driver>> Driver::Open(const std::string& library) {
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* why = dlerror();
    return absl::NotFoundError(absl::StrCat("no CUDA driver: ", why ? why : library));
  }
  std::unique_ptr<Driver> driver(new Driver(handle));
  TIDE_RETURN_IF_ERROR(driver->Load());
  Result result = driver->calls_.init(0);
  if (result == kSuccess) result = driver->calls_.device_count(&driver->device_count_);
  if (result == kSuccess) result = driver->calls_.driver_version(&driver->version_);
  if (result != kSuccess || driver->device_count_ == 0) {
    return absl::UnavailableError(absl::StrCat(library, " is there but offers no device (error ",
                                               result, "); `nvidia-smi` says why"));
  }
  return driver;
}

absl::Status Driver::Load() {
  const Entry entries[] = {
      {"cuInit", reinterpret_cast<void**>(&calls_.init)},
      {"cuDriverGetVersion", reinterpret_cast<void**>(&calls_.driver_version)},
      {"cuDeviceGetCount", reinterpret_cast<void**>(&calls_.device_count)},
      {"cuDeviceGetName", reinterpret_cast<void**>(&calls_.device_name)},
      {"cuDeviceGetUuid_v2", reinterpret_cast<void**>(&calls_.device_uuid)},
      {"cuDeviceGetAttribute", reinterpret_cast<void**>(&calls_.device_attribute)},
      {"cuDevicePrimaryCtxRetain", reinterpret_cast<void**>(&calls_.primary_context_retain)},
      {"cuCtxSetCurrent", reinterpret_cast<void**>(&calls_.context_set)},
      {"cuCtxGetCurrent", reinterpret_cast<void**>(&calls_.context_get)},
      {"cuCtxSynchronize", reinterpret_cast<void**>(&calls_.context_synchronize)},
      {"cuGetErrorName", reinterpret_cast<void**>(&calls_.error_name)},
      {"cuMemGetInfo_v2", reinterpret_cast<void**>(&calls_.memory_info)},
      {"cuMemGetAllocationGranularity", reinterpret_cast<void**>(&calls_.granularity)},
      {"cuMemAddressReserve", reinterpret_cast<void**>(&calls_.address_reserve)},
      {"cuMemAddressFree", reinterpret_cast<void**>(&calls_.address_free)},
      {"cuMemCreate", reinterpret_cast<void**>(&calls_.create)},
      {"cuMemRelease", reinterpret_cast<void**>(&calls_.release)},
      {"cuMemMap", reinterpret_cast<void**>(&calls_.map)},
      {"cuMemUnmap", reinterpret_cast<void**>(&calls_.unmap)},
      {"cuMemSetAccess", reinterpret_cast<void**>(&calls_.set_access)},
      {"cuMemExportToShareableHandle", reinterpret_cast<void**>(&calls_.export_handle)},
      {"cuMemImportFromShareableHandle", reinterpret_cast<void**>(&calls_.import_handle)},
      {"cuMemHostRegister_v2", reinterpret_cast<void**>(&calls_.host_register)},
      {"cuMemHostUnregister", reinterpret_cast<void**>(&calls_.host_unregister)},
      {"cuMemcpyHtoD_v2", reinterpret_cast<void**>(&calls_.copy_to_device)},
      {"cuMemcpyDtoH_v2", reinterpret_cast<void**>(&calls_.copy_to_host)},
      {"cuMemcpyDtoD_v2", reinterpret_cast<void**>(&calls_.copy_on_device)},
      {"cuMemcpyHtoDAsync_v2", reinterpret_cast<void**>(&calls_.copy_to_device_on)},
      {"cuMemsetD8Async", reinterpret_cast<void**>(&calls_.fill_on)},
      {"cuStreamCreate", reinterpret_cast<void**>(&calls_.stream_create)},
      {"cuEventCreate", reinterpret_cast<void**>(&calls_.event_create)},
      {"cuEventRecord", reinterpret_cast<void**>(&calls_.event_record)},
      {"cuEventSynchronize", reinterpret_cast<void**>(&calls_.event_synchronize)},
      {"cuStreamSynchronize", reinterpret_cast<void**>(&calls_.stream_synchronize)},
  };
  for (const Entry& entry : entries) {
    *entry.slot = Symbol(entry.name);
    if (*entry.slot == nullptr) {
      return absl::NotFoundError(
          absl::StrCat("the CUDA driver lacks ", entry.name, "; CUDA 12.0 or newer is needed"));
    }
  }
  return absl::OkStatus();
}

void* Driver::Symbol(const char* name) const { return dlsym(library_, name); }

void* Driver::LookUp(const char* name, int cuda_version) const {
  using GetProcAddress = Result (*)(const char*, void**, int, uint64_t, int*);
  auto look_up = reinterpret_cast<GetProcAddress>(Symbol("cuGetProcAddress_v2"));
  void* address = nullptr;
  int found = 0;
  if (look_up == nullptr || look_up(name, &address, cuda_version, 0, &found) != kSuccess) {
    return nullptr;
  }
  return address;
}

absl::Status Driver::Check(Result result, absl::string_view what) const {
  if (result == kSuccess) return absl::OkStatus();
  const char* name = nullptr;
  if (calls_.error_name(result, &name) != kSuccess || name == nullptr) name = "unknown error";
  const std::string message =
      absl::StrCat(what, ": the CUDA driver says ", name, " (", result, ")");
  switch (result) {
    case kOutOfMemory:
      return absl::ResourceExhaustedError(message);
    case kNotSupported:
    case kNotPermitted:
      return absl::UnimplementedError(message);
    case kInvalidValue:
      return absl::InvalidArgumentError(message);
    default:
      return absl::InternalError(message);
  }
}

std::string Driver::DeviceName(int device) const {
  char name[128] = {};
  return calls_.device_name(name, sizeof name - 1, device) == kSuccess ? name : "";
}

std::string Driver::DeviceUuid(int device) const {
  unsigned char raw[16] = {};
  if (calls_.device_uuid(raw, device) != kSuccess) return "";
  std::string text = "GPU-";
  for (int i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    absl::StrAppendFormat(&text, "%02x", raw[i]);
  }
  return text;
}

absl::StatusOr<Bytes> Driver::Granularity(const AllocationProperties& properties) const {
  size_t size = 0;
  TIDE_RETURN_IF_ERROR(
      Check(calls_.granularity(&size, &properties, /*minimum=*/0), "allocation granularity"));
  return Bytes(static_cast<int64_t>(size));
}

ScopedContext::ScopedContext(const Driver& driver, int device) : driver_(driver) {
  Context context = nullptr;
  status_ =
      driver.Check(driver.calls().primary_context_retain(&context, device), "the device's context");
  if (!status_.ok()) return;
  driver.calls().context_get(&previous_);
  if (previous_ == context) return;
  status_ = driver.Check(driver.calls().context_set(context), "make the context current");
  changed_ = status_.ok();
}

ScopedContext::~ScopedContext() {
  if (changed_) driver_.calls().context_set(previous_);
}

}  // namespace tide::pages::cuda

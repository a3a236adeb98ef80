#include "pages/device_shares.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace tide::pages {
namespace {

constexpr int kMultiprocessors = 1;     // CU_DEV_RESOURCE_TYPE_SM
constexpr unsigned kDefaultStream = 1;  // CU_GREEN_CTX_DEFAULT_STREAM, which is required

/// The driver's entry points of green contexts (CUDA 12.4).
struct Calls {
  cuda::Result (*resource)(int, cuda::DeviceResource*, int);
  cuda::Result (*split)(cuda::DeviceResource*, unsigned*, const cuda::DeviceResource*,
                        cuda::DeviceResource*, unsigned, unsigned);
  cuda::Result (*describe)(void**, cuda::DeviceResource*, unsigned);
  cuda::Result (*create)(void**, void*, int, unsigned);
  cuda::Result (*destroy)(void*);
  cuda::Result (*stream)(cuda::Stream*, void*, unsigned, int);
};

absl::Status Find(const cuda::Driver& driver, Calls* calls) {
  const std::pair<const char*, void**> entries[] = {
      {"cuDeviceGetDevResource", reinterpret_cast<void**>(&calls->resource)},
      {"cuDevSmResourceSplitByCount", reinterpret_cast<void**>(&calls->split)},
      {"cuDevResourceGenerateDesc", reinterpret_cast<void**>(&calls->describe)},
      {"cuGreenCtxCreate", reinterpret_cast<void**>(&calls->create)},
      {"cuGreenCtxDestroy", reinterpret_cast<void**>(&calls->destroy)},
      {"cuGreenCtxStreamCreate", reinterpret_cast<void**>(&calls->stream)},
  };
  for (const auto& [name, slot] : entries) *slot = driver.Symbol(name);
  const bool all = std::all_of(std::begin(entries), std::end(entries),
                               [](const auto& entry) { return *entry.second != nullptr; });
  return all ? absl::OkStatus()
             : absl::UnimplementedError(
                   "this driver has no green contexts; they come with CUDA 12.4 (driver 550)");
}

}  // namespace

absl::StatusOr<DeviceShare> DeviceShares::Share(int device, int percent) {
  if (percent < 1 || percent > 99) {
    return absl::InvalidArgumentError(
        absl::StrCat("a share of ", percent, " % of a device; it may be 1 to 99"));
  }
  absl::MutexLock lock(&mu_);
  const auto it = shares_.find({device, percent});
  if (it != shares_.end()) return it->second;
  TIDE_ASSIGN_OR_RETURN(const DeviceShare made, Make(device, percent));
  return shares_[{device, percent}] = made;
}

absl::StatusOr<int> DeviceShares::Shareable(int device) const {
  Calls calls;
  TIDE_RETURN_IF_ERROR(Find(driver_, &calls));
  cuda::DeviceResource all;
  TIDE_RETURN_IF_ERROR(driver_.Check(calls.resource(device, &all, kMultiprocessors),
                                     "the device's multiprocessors"));
  return static_cast<int>(all.multiprocessors);
}

absl::StatusOr<DeviceShare> DeviceShares::Make(int device, int percent) {
  Calls calls;
  TIDE_RETURN_IF_ERROR(Find(driver_, &calls));
  const cuda::ScopedContext context(driver_, device);
  TIDE_RETURN_IF_ERROR(context.status());
  cuda::DeviceResource all, part, rest;
  TIDE_RETURN_IF_ERROR(driver_.Check(calls.resource(device, &all, kMultiprocessors),
                                     "the device's multiprocessors"));
  const unsigned wanted = std::max(all.multiprocessors * percent / 100, 1u);
  unsigned groups = 1;
  TIDE_RETURN_IF_ERROR(driver_.Check(calls.split(&part, &groups, &all, &rest, 0, wanted),
                                     absl::StrCat("a share of ", wanted, " multiprocessors")));
  if (groups != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("the device does not part with ", wanted, " of its multiprocessors"));
  }
  void* described = nullptr;
  TIDE_RETURN_IF_ERROR(driver_.Check(calls.describe(&described, &part, 1), "describe a share"));
  void* green = nullptr;
  TIDE_RETURN_IF_ERROR(
      driver_.Check(calls.create(&green, described, device, kDefaultStream), "a green context"));
  DeviceShare share;
  share.multiprocessors = static_cast<int>(part.multiprocessors);
  const absl::Status status = driver_.Check(
      calls.stream(&share.stream, green, cuda::kStreamWaitsForNoOther, 0), "a stream on a share");
  if (status.ok()) return share;
  calls.destroy(green);
  return status;
}

}  // namespace tide::pages

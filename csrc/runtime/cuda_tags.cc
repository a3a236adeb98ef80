// Pages whose contents the program can do without: they leave without a copy.
#include <algorithm>

#include "base/status.h"
#include "runtime/cuda_job.h"

namespace tide::runtime {

using pages::DeviceTier;

std::vector<CudaJob::Leaving> CudaJob::MayLeave(int index) const {
  std::vector<pages::DevicePage> pages;
  for (const pages::DevicePage& page : pages_->Snapshot(index)) {
    if (page.tier == DeviceTier::kDevice && !page.pinned && page.address != 0)
      pages.push_back(page);
  }
  std::vector<Leaving> leaving;
  for (const pages::DevicePage& page : pages) leaving.push_back({page, false});
  if (!framework_.unwanted) return leaving;
  for (size_t i : pages::PagesWithin(pages, framework_.unwanted())) leaving[i].unwanted = true;
  std::stable_partition(leaving.begin(), leaving.end(),
                        [](const Leaving& one) { return !one.unwanted; });
  return leaving;
}

absl::Status CudaJob::Leave(const Leaving& leaving, DeviceTier to) {
  const pages::DevicePage& page = leaving.page;
  if (!leaving.unwanted) return DemoteForSuspension(page.token, to);
  TIDE_RETURN_IF_ERROR(pages_->Demote(page.token, DeviceTier::kDropped));
  devices_[page.device]->lost.push_back({page.address, page.size});
  return absl::OkStatus();
}

std::vector<pages::ColdRange> CudaJob::TakeLost(int device) {
  if (pages_->counts(device).dropped > Bytes(0)) return {};
  return std::exchange(devices_[device]->lost, {});
}

}  // namespace tide::runtime

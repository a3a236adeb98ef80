// Device pages on the scratch that the jobs of a lane share: there and back between iterations,
// each step undone when the driver refuses it.
#include <algorithm>
#include <optional>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "pages/device_pages.h"

namespace tide::pages {

absl::StatusOr<DevicePages::Page*> DevicePages::ClaimForLane(cuda::Handle token, DeviceTier tier) {
  absl::MutexLock lock(&mu_);
  Page* page = nullptr;
  while ((page = Find(token)) != nullptr && page->busy) not_busy_.Wait(&mu_);
  if (page == nullptr) return absl::NotFoundError("the page is gone");
  if (page->view.address == 0 || page->real == 0)
    return absl::FailedPreconditionError("the page is not mapped");
  if (page->view.pinned)
    return absl::FailedPreconditionError("the page is shared with another process");
  if (page->view.tier != tier) {
    return absl::FailedPreconditionError(tier == DeviceTier::kLane ? "the page is not on the lane"
                                                                   : "the page is elsewhere");
  }
  if (chunks_[page->view.device] == nullptr)
    return absl::FailedPreconditionError("the device has no lane");
  page->busy = true;
  return page;
}

void DevicePages::EnterLane(Page& page, const Chunk& chunk) {
  absl::MutexLock lock(&mu_);
  DeviceCounts& counts = counts_[page.view.device];
  if (page.view.tier != DeviceTier::kLane) {
    page.view.tier = DeviceTier::kLane;
    counts.lane += page.view.size;
    ++counts.to_lane;
  }
  page.real = chunk.real;
  page.chunk = chunk;
}

void DevicePages::LeaveLane(Page& page, cuda::Handle real) {
  absl::MutexLock lock(&mu_);
  DeviceCounts& counts = counts_[page.view.device];
  counts.lane -= page.view.size;
  ++counts.from_lane;
  page.view.tier = DeviceTier::kDevice;
  page.real = real;
  page.chunk = {};
}

absl::Status DevicePages::ToLane(cuda::Handle token) {
  absl::MutexLock one_move(&move_mu_);
  RetryLeftovers();
  TIDE_ASSIGN_OR_RETURN(Page * page, ClaimForLane(token, DeviceTier::kDevice));
  absl::Cleanup unclaim = [&] { Unclaim({page}); };
  const cuda::ScopedContext context(driver_, page->view.device);
  TIDE_RETURN_IF_ERROR(context.status());
  // Its memory is given back first, so that a full device has room for the chunk; nobody needs what
  // is in it.
  TIDE_RETURN_IF_ERROR(
      driver_.Check(calls().unmap(page->view.address, page->view.size.size()), "unmap a page"));
  const cuda::Handle old = page->real;
  if (const cuda::Result error = calls().release(old)) {
    if (MapPage(*page, old) == cuda::kSuccess) return driver_.Check(error, "release a page");
    absl::MutexLock lock(&mu_);  // it could neither be given back nor mapped again
    spares_[page->view.device].push_back({page->properties, page->view.size, old});
    counts_[page->view.device].spare += page->view.size;
  } else {
    accounts_[page->view.device]->Release(page->view.size);
    absl::MutexLock lock(&mu_);
    counts_[page->view.device].device -= page->view.size;
  }
  EnterLane(*page, {});
  return MapOnLane(*page);
}

absl::Status DevicePages::FromLane(cuda::Handle token) {
  absl::MutexLock one_move(&move_mu_);
  RetryLeftovers();
  TIDE_ASSIGN_OR_RETURN(Page * page, ClaimForLane(token, DeviceTier::kLane));
  absl::Cleanup unclaim = [&] { Unclaim({page}); };
  const Bytes size = page->view.size;
  const cuda::ScopedContext context(driver_, page->view.device);
  TIDE_RETURN_IF_ERROR(context.status());
  cuda::Handle real = 0;
  bool reused = false;
  TIDE_RETURN_IF_ERROR(
      driver_.Check(Obtain(page->properties, size, Asking::kSurvivor, &real, &reused),
                    absl::StrCat("device memory for a live page of ", FormatBytes(size))));
  if (absl::Status status = Replace(*page, real); !status.ok()) {
    GiveBack(page->properties, size, real);
    return status;
  }
  const Chunk chunk = page->chunk;
  LeaveLane(*page, real);
  chunks_[page->view.device]->Return(size, chunk);
  return absl::OkStatus();
}

/// Claims them.
std::vector<DevicePages::Page*> DevicePages::LanePages(int device, bool mapped) {
  absl::MutexLock lock(&mu_);
  std::vector<Page*> pages;
  // In the order of addresses, so that a chunk comes behind the same page again.
  for (auto& [at, page] : by_address_) {
    if (page->view.device != device || page->view.tier != DeviceTier::kLane || page->busy) continue;
    if ((page->real != 0) != mapped) continue;
    page->busy = true;
    pages.push_back(page);
  }
  return pages;
}

absl::Status DevicePages::DropLane(int device) {
  absl::MutexLock one_move(&move_mu_);
  RetryLeftovers();
  if (chunks_[device] == nullptr) return absl::OkStatus();
  const std::vector<Page*> pages = LanePages(device, /*mapped=*/true);
  absl::Cleanup unclaim = [&] { Unclaim(pages); };
  const cuda::ScopedContext context(driver_, device);
  TIDE_RETURN_IF_ERROR(context.status());
  absl::Status status;
  for (Page* page : pages) {
    const Bytes size = page->view.size;
    status = driver_.Check(calls().unmap(page->view.address, size.size()), "unmap a page");
    if (!status.ok()) break;
    chunks_[device]->Return(size, page->chunk);
    EnterLane(*page, {});
  }
  chunks_[device]->Trim();
  return status;
}

void DevicePages::TrimLane(int device) {
  absl::MutexLock one_move(&move_mu_);
  if (chunks_[device] == nullptr) return;
  LaneChunks& chunks = *chunks_[device];
  std::vector<Page*> pages = LanePages(device, /*mapped=*/true);
  absl::Cleanup unclaim = [&] { Unclaim(pages); };
  const cuda::ScopedContext context(driver_, device);
  if (!context.status().ok()) return;
  std::sort(pages.begin(), pages.end(),
            [](const Page* a, const Page* b) { return a->chunk.index > b->chunk.index; });
  for (Page* page : pages) {
    const Bytes size = page->view.size;
    const std::optional<Chunk> lower = chunks.TakeBelow(size, page->chunk.index);
    if (!lower) continue;  // another size may have one
    const Chunk old = page->chunk;
    const bool empty = calls().unmap(page->view.address, size.size()) == cuda::kSuccess;
    if (empty && MapPage(*page, lower->real) == cuda::kSuccess) {
      EnterLane(*page, *lower);
      chunks.Return(size, old);
      continue;
    }
    chunks.Return(size, *lower);
    if (!empty || MapPage(*page, old.real) == cuda::kSuccess) break;
    EnterLane(*page, {});
    chunks.Return(size, old);
    break;
  }
  chunks.Trim();
}

absl::Status DevicePages::MapOnLane(Page& page) {
  const Bytes size = page.view.size;
  LaneChunks& chunks = *chunks_[page.view.device];
  const absl::StatusOr<Chunk> chunk = chunks.Take(size);
  if (chunk.ok()) {
    const absl::Status status =
        driver_.Check(MapPage(page, chunk->real), "map a chunk of the lane");
    if (status.ok()) {
      EnterLane(page, *chunk);
    } else {
      chunks.Return(size, *chunk);
    }
    return status;
  }
  if (!absl::IsUnavailable(chunk.status())) return chunk.status();
  cuda::Handle real = 0;
  bool reused = false;
  TIDE_RETURN_IF_ERROR(
      driver_.Check(Obtain(page.properties, size, Asking::kNobody, &real, &reused),
                    absl::StrCat("device memory for a page of ", FormatBytes(size))));
  const absl::Status status = driver_.Check(MapPage(page, real), "map a page");
  if (status.ok()) {
    LeaveLane(page, real);
  } else {
    GiveBack(page.properties, size, real);
  }
  return status;
}

absl::Status DevicePages::MapLane(int device) {
  absl::MutexLock one_move(&move_mu_);
  RetryLeftovers();
  const std::vector<Page*> pages = LanePages(device, /*mapped=*/false);
  absl::Cleanup unclaim = [&] { Unclaim(pages); };
  const cuda::ScopedContext context(driver_, device);
  TIDE_RETURN_IF_ERROR(context.status());
  for (Page* page : pages) TIDE_RETURN_IF_ERROR(MapOnLane(*page));
  return absl::OkStatus();
}

Bytes DevicePages::Unmapped(int device) const {
  absl::MutexLock lock(&mu_);
  Bytes sum;
  for (const auto& [token, page] : pages_) {
    if (page.view.device == device && page.view.tier == DeviceTier::kLane && page.real == 0)
      sum += page.view.size;
  }
  return sum;
}

}  // namespace tide::pages

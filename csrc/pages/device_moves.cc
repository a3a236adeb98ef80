// Demotion and promotion of device pages: copies first, then exchanges what is mapped, and undoes
// itself when the driver refuses half-way.
#include <unistd.h>

#include <cstdlib>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "pages/device_pages.h"

namespace tide::pages {
namespace {

constexpr size_t kDirectAlignment = 4096;  // of transfers that bypass the page cache

absl::Status Transfer(const char* what, ssize_t (*call)(int, void*, size_t, off_t), int fd,
                      char* memory, Bytes size, Bytes offset) {
  for (int64_t done = 0; done < size.value();) {
    const ssize_t moved = call(fd, memory + done, size.size() - static_cast<size_t>(done),
                               static_cast<off_t>(offset.value() + done));
    if (moved < 0 && errno == EINTR) continue;
    if (moved < 0) return ErrnoStatus(absl::StrCat("cannot ", what, " the spill file"));
    if (moved == 0) return absl::DataLossError("the spill file is shorter than it was");
    done += moved;
  }
  return absl::OkStatus();
}

ssize_t WriteAt(int fd, void* memory, size_t size, off_t offset) {
  return pwrite(fd, memory, size, offset);
}

struct FreeDeleter {
  void operator()(char* memory) const { std::free(memory); }
};
using Bounce = std::unique_ptr<char, FreeDeleter>;
Bounce MakeBounce() {
  return Bounce(static_cast<char*>(std::aligned_alloc(kDirectAlignment, kPage.size())));
}

}  // namespace

cuda::AllocationProperties DevicePages::HostProperties() const {
  cuda::AllocationProperties properties;
  int node = 0;
  calls().device_attribute(&node, cuda::kAttributeHostNumaId, 0);
  properties.location = {cuda::kLocationHostNuma, node < 0 ? 0 : node};
  return properties;
}

bool DevicePages::host_mapping() {
  {
    absl::MutexLock lock(&mu_);
    if (host_mapping_ >= 0) return host_mapping_ != 0;
  }
  // Really made: drivers in containers report the attribute and refuse the call.
  const cuda::AllocationProperties properties = HostProperties();
  auto granularity = driver_.Granularity(properties);
  cuda::Handle probe = 0;
  const bool offered = options_.host_mapping && granularity.ok() &&
                       calls().create(&probe, granularity->size(), &properties, 0) == 0;
  if (offered) Drop({Leftover::kHandle, probe, 0});
  absl::MutexLock lock(&mu_);
  host_mapping_ = offered ? 1 : 0;
  return offered;
}

absl::StatusOr<DevicePages::Page*> DevicePages::ClaimToMove(cuda::Handle token, bool away) {
  absl::MutexLock lock(&mu_);
  Page* page = nullptr;
  while ((page = Find(token)) != nullptr && page->busy) not_busy_.Wait(&mu_);
  if (page == nullptr) return absl::NotFoundError("the page is gone");
  if (page->view.address == 0) return absl::FailedPreconditionError("the page is not mapped");
  if (page->view.pinned) {
    return absl::FailedPreconditionError("the page is shared with another process");
  }
  if ((page->view.tier != DeviceTier::kDevice) != away) {
    return absl::FailedPreconditionError(away ? "the page is on the device already"
                                              : "the page is away already");
  }
  page->busy = true;
  return page;
}

void DevicePages::SetTier(Page& page, DeviceTier tier, cuda::Handle real) {
  absl::MutexLock lock(&mu_);
  // The device's own count follows its handles (Obtain, GiveBack).
  if (page.view.tier != DeviceTier::kDevice) TierBytes(page) -= page.view.size;
  page.view.tier = tier;
  page.real = real;
  if (tier != DeviceTier::kDevice) TierBytes(page) += page.view.size;
  DeviceCounts& counts = counts_[page.view.device];
  ++(tier == DeviceTier::kDevice ? counts.promoted : counts.demoted);
}

absl::Status DevicePages::Demote(cuda::Handle token, DeviceTier to) {
  absl::MutexLock one_move(&move_mu_);
  RetryLeftovers();
  if (to == DeviceTier::kDevice) return absl::InvalidArgumentError("that is no lower tier");
  if (to == DeviceTier::kHostMapped && !host_mapping()) {
    return absl::UnimplementedError("the driver offers no host memory that the device can map");
  }
  TIDE_ASSIGN_OR_RETURN(Page * page, ClaimToMove(token, /*away=*/false));
  absl::Cleanup unclaim = [&] { Unclaim({page}); };
  const cuda::ScopedContext context(driver_, page->view.device);
  TIDE_RETURN_IF_ERROR(context.status());
  if (to != DeviceTier::kHostMapped) return MoveToCopy(*page, to);

  const cuda::AllocationProperties properties = HostProperties();
  cuda::Handle host = 0;
  TIDE_RETURN_IF_ERROR(driver_.Check(calls().create(&host, page->view.size.size(), &properties, 0),
                                     "host memory for a page"));
  const cuda::Handle device = page->real;
  absl::Status status = Replace(*page, host);
  if (status.ok()) {
    SetTier(*page, DeviceTier::kHostMapped, host);
    status = driver_.Check(GiveBack(page->properties, page->view.size, device), "release");
    if (status.ok()) return status;
    // Its memory cannot be given back: then the page stays where it was.
    if (!Replace(*page, device).ok()) return status;
    SetTier(*page, DeviceTier::kDevice, device);
  }
  Drop({Leftover::kHandle, host, 0});
  return status;
}

absl::Status DevicePages::Promote(cuda::Handle token) {
  absl::MutexLock one_move(&move_mu_);
  RetryLeftovers();
  TIDE_ASSIGN_OR_RETURN(Page * page, ClaimToMove(token, /*away=*/true));
  absl::Cleanup unclaim = [&] { Unclaim({page}); };
  const cuda::ScopedContext context(driver_, page->view.device);
  TIDE_RETURN_IF_ERROR(context.status());
  cuda::Handle device = TakeRoom(*page);
  bool reused = false;
  if (device == 0) {
    TIDE_RETURN_IF_ERROR(
        driver_.Check(Obtain(page->properties, page->view.size, Asking::kNobody, &device, &reused),
                      absl::StrCat("device memory for a page of ", FormatBytes(page->view.size))));
  }
  absl::Status status;
  if (page->view.tier == DeviceTier::kHostMapped) {
    const cuda::Handle host = page->real;
    status = Replace(*page, device);
    if (status.ok()) {
      SetTier(*page, DeviceTier::kDevice, device);
      Drop({Leftover::kHandle, host, 0});
    }
  } else {
    status = driver_.Check(MapPage(*page, device), "map a page");
    if (status.ok()) {
      status = MoveFromCopy(*page);
      if (!status.ok()) calls().unmap(page->view.address, page->view.size.size());
    }
    if (status.ok()) SetTier(*page, DeviceTier::kDevice, device);
  }
  if (!status.ok()) GiveBack(page->properties, page->view.size, device);
  return status;
}

// ---- exchange of what is mapped ----

absl::Status DevicePages::CopyThroughScratch(const Page& page, cuda::Handle real) {
  const size_t size = page.view.size.size();
  cuda::DevicePointer scratch = 0;
  TIDE_RETURN_IF_ERROR(
      driver_.Check(calls().address_reserve(&scratch, size, 0, 0, 0), "scratch address"));
  absl::Cleanup free_address = [&] { Drop({Leftover::kAddress, scratch, size}); };
  TIDE_RETURN_IF_ERROR(driver_.Check(calls().map(scratch, size, 0, real, 0), "map for a copy"));
  absl::Cleanup unmap = [&] { Drop({Leftover::kMapping, scratch, size}); };
  cuda::AccessDescriptor access;
  access.location = {cuda::kLocationDevice, page.view.device};
  TIDE_RETURN_IF_ERROR(
      driver_.Check(calls().set_access(scratch, size, &access, 1), "access for a copy"));
  return driver_.Check(calls().copy_on_device(scratch, page.view.address, size), "copy a page");
}

void DevicePages::Drop(const Leftover& leftover) {
  cuda::Result result = cuda::kSuccess;
  switch (leftover.kind) {
    case Leftover::kMapping:
      result = calls().unmap(leftover.value, leftover.size);
      break;
    case Leftover::kAddress:
      result = calls().address_free(leftover.value, leftover.size);
      break;
    case Leftover::kHandle:
      result = calls().release(leftover.value);
      break;
  }
  if (result == cuda::kSuccess) return;
  absl::MutexLock lock(&mu_);
  leftovers_.push_back(leftover);
}

void DevicePages::RetryLeftovers() {
  std::vector<Leftover> all;
  {
    absl::MutexLock lock(&mu_);
    all.swap(leftovers_);
  }
  for (const Leftover& leftover : all) Drop(leftover);
}

absl::Status DevicePages::Replace(Page& page, cuda::Handle real) {
  TIDE_RETURN_IF_ERROR(CopyThroughScratch(page, real));
  const size_t size = page.view.size.size();
  TIDE_RETURN_IF_ERROR(driver_.Check(calls().unmap(page.view.address, size), "unmap a page"));
  absl::Status status = driver_.Check(MapPage(page, real), "map a page");
  if (status.ok()) return status;
  if (const cuda::Result error = MapPage(page, page.real)) {
    return absl::DataLossError(absl::StrCat(
        status.message(), "; and the page could not be put back (", error,
        "): its address is empty. The job has to be restarted from its last checkpoint"));
  }
  return status;
}

// ---- copies in host memory and in the file, and pages without any ----

absl::Status DevicePages::MoveToCopy(Page& page, DeviceTier to) {
  const size_t size = page.view.size.size();
  if (to == DeviceTier::kFile) {
    TIDE_RETURN_IF_ERROR(WriteToSpill(page));
  } else if (to == DeviceTier::kHostCopy) {
    TIDE_ASSIGN_OR_RETURN(page.copy, pinned_.Acquire(page.view.size));
  }
  absl::Cleanup drop_copy = [&] {
    DropCopy(page);
    FreeSlots(page);
  };
  if (to == DeviceTier::kHostCopy) {
    TIDE_RETURN_IF_ERROR(
        driver_.Check(calls().copy_to_host(page.copy, page.view.address, size), "copy a page"));
  }
  TIDE_RETURN_IF_ERROR(driver_.Check(calls().unmap(page.view.address, size), "unmap a page"));
  absl::Status status =
      driver_.Check(GiveBack(page.properties, page.view.size, page.real), "release a page");
  if (!status.ok() && MapPage(page, page.real) == cuda::kSuccess) return status;
  if (!status.ok()) {
    // It could neither be given back nor mapped again: it is away all the same, its contents, if
    // anybody wants them, are in the copy, and its device memory waits among the spares.
    absl::MutexLock lock(&mu_);
    spares_[page.view.device].push_back({page.properties, page.view.size, page.real});
    counts_[page.view.device].spare += page.view.size;
  }
  SetTier(page, to, /*real=*/0);
  std::move(drop_copy).Cancel();
  return status;
}

absl::Status DevicePages::FillWithZeros(const Page& page) {
  TIDE_ASSIGN_OR_RETURN(const cuda::Stream stream, CopyStream(page.view.device));
  TIDE_RETURN_IF_ERROR(driver_.Check(
      calls().fill_on(page.view.address, 0, page.view.size.size(), stream), "fill a page"));
  return driver_.Check(calls().stream_synchronize(stream), "fill a page");
}

absl::Status DevicePages::MoveFromCopy(Page& page, cuda::Stream stream) {
  if (page.view.tier == DeviceTier::kDropped) return FillWithZeros(page);
  if (page.view.tier == DeviceTier::kFile) {
    TIDE_RETURN_IF_ERROR(ReadFromSpill(page, stream));
    FreeSlots(page);
    return absl::OkStatus();
  }
  TIDE_RETURN_IF_ERROR(CopyIn(page.view.address, page.copy, page.view.size, stream));
  DropCopy(page);
  return absl::OkStatus();
}

void DevicePages::DropCopy(Page& page) {
  if (page.copy == nullptr) return;
  pinned_.Release(std::exchange(page.copy, nullptr), page.view.size);
}

absl::Status DevicePages::WriteToSpill(Page& page) {
  if (spill_ == nullptr) return absl::FailedPreconditionError("there is no spill file");
  if (page.view.size.value() % kPage.value() != 0) {
    return absl::InvalidArgumentError("the page is not a multiple of the spill file's slots");
  }
  const Bounce bounce = MakeBounce();
  absl::Cleanup free_slots = [&] { FreeSlots(page); };
  for (Bytes done; done < page.view.size; done += kPage) {
    TIDE_RETURN_IF_ERROR(driver_.Check(
        calls().copy_to_host(bounce.get(), page.view.address + done.size(), kPage.size()),
        "copy a page"));
    SpillSlot slot;
    {
      absl::MutexLock lock(&spill_mu_);
      TIDE_ASSIGN_OR_RETURN(slot, spill_->Allocate());
    }
    page.slots.push_back(slot);
    TIDE_RETURN_IF_ERROR(Transfer("write", WriteAt, spill_->transfer_fd(), bounce.get(), kPage,
                                  spill_->Offset(slot)));
  }
  std::move(free_slots).Cancel();
  return absl::OkStatus();
}

absl::Status DevicePages::ReadFromSpill(const Page& page, cuda::Stream stream) {
  const Bounce bounce = MakeBounce();
  for (size_t i = 0; i < page.slots.size(); ++i) {
    TIDE_RETURN_IF_ERROR(Transfer("read", pread, spill_->transfer_fd(), bounce.get(), kPage,
                                  spill_->Offset(page.slots[i])));
    TIDE_RETURN_IF_ERROR(CopyIn(page.view.address + i * kPage.size(), bounce.get(), kPage, stream));
  }
  return absl::OkStatus();
}

void DevicePages::FreeSlots(Page& page) {
  if (page.slots.empty()) return;
  absl::MutexLock lock(&spill_mu_);
  for (SpillSlot slot : page.slots) spill_->Free(slot);
  page.slots.clear();
}

}  // namespace tide::pages

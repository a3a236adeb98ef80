// Pages that return while kernels already run on others: their room is held first, their contents
// come on a stream of their own.
#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "pages/device_pages.h"

namespace tide::pages {

cuda::Handle DevicePages::TakeRoom(Page& page) {
  absl::MutexLock lock(&mu_);
  if (page.room == 0) return 0;
  counts_[page.view.device].room -= page.view.size;
  page.view.coming = false;
  return std::exchange(page.room, 0);
}

void DevicePages::PutRoom(Page& page, cuda::Handle room) {
  absl::MutexLock lock(&mu_);
  page.room = room;
  page.view.coming = true;
  counts_[page.view.device].room += page.view.size;
}

void DevicePages::LetRoomGoOf(Page& page) {
  const cuda::Handle room = TakeRoom(page);
  if (room == 0 || GiveBack(page.properties, page.view.size, room) == cuda::kSuccess) return;
  // A driver that does not take it back: it waits among the spares, beyond what these may be.
  absl::MutexLock lock(&mu_);
  spares_[page.view.device].push_back({page.properties, page.view.size, room});
  counts_[page.view.device].spare += page.view.size;
}

absl::Status DevicePages::HoldRoom(cuda::Handle token) {
  absl::MutexLock one_move(&move_mu_);
  TIDE_ASSIGN_OR_RETURN(Page * page, ClaimToMove(token, /*away=*/true));
  absl::Cleanup unclaim = [&] { Unclaim({page}); };
  if (page->room != 0) return absl::OkStatus();
  if (page->view.tier == DeviceTier::kHostMapped) {
    return absl::FailedPreconditionError("the page is mapped, and returns with its contents");
  }
  const cuda::ScopedContext context(driver_, page->view.device);
  TIDE_RETURN_IF_ERROR(context.status());
  cuda::Handle room = 0;
  bool reused = false;
  TIDE_RETURN_IF_ERROR(
      driver_.Check(Obtain(page->properties, page->view.size, Asking::kNobody, &room, &reused),
                    absl::StrCat("device memory for a page of ", FormatBytes(page->view.size))));
  PutRoom(*page, room);
  return absl::OkStatus();
}

void DevicePages::LetRoomGo(cuda::Handle token) {
  absl::MutexLock one_move(&move_mu_);
  const auto page = ClaimToMove(token, /*away=*/true);
  if (!page.ok()) return;  // it is gone or back, and so is its room
  LetRoomGoOf(**page);
  Unclaim({*page});
}

absl::StatusOr<cuda::Stream> DevicePages::CopyStream(int device) {
  cuda::Stream& stream = copy_streams_[device];
  if (stream == nullptr) {
    TIDE_RETURN_IF_ERROR(driver_.Check(calls().stream_create(&stream, cuda::kStreamWaitsForNoOther),
                                       "a stream for copies"));
  }
  return stream;
}

absl::Status DevicePages::CopyIn(cuda::DevicePointer to, const char* from, Bytes size,
                                 cuda::Stream stream) {
  if (stream == nullptr) {
    return driver_.Check(calls().copy_to_device(to, from, size.size()), "copy a page");
  }
  TIDE_RETURN_IF_ERROR(
      driver_.Check(calls().copy_to_device_on(to, from, size.size(), stream), "copy a page"));
  // The copy is used by kernels of streams that know nothing of this one.
  return driver_.Check(calls().stream_synchronize(stream), "copy a page");
}

absl::Status DevicePages::PromoteBeside(cuda::Handle token) {
  absl::MutexLock one_move(&move_mu_);
  TIDE_ASSIGN_OR_RETURN(Page * page, ClaimToMove(token, /*away=*/true));
  absl::Cleanup unclaim = [&] { Unclaim({page}); };
  const cuda::ScopedContext context(driver_, page->view.device);
  TIDE_RETURN_IF_ERROR(context.status());
  TIDE_ASSIGN_OR_RETURN(const cuda::Stream stream, CopyStream(page->view.device));
  if (page->room == 0) return absl::FailedPreconditionError("no room is held for the page");
  TIDE_RETURN_IF_ERROR(driver_.Check(MapPage(*page, page->room), "map a page"));
  const absl::Status status = MoveFromCopy(*page, stream);
  if (!status.ok()) {
    calls().unmap(page->view.address, page->view.size.size());
    return status;
  }
  // At once: nobody must find the page away and without its room.
  absl::MutexLock lock(&mu_);
  DeviceCounts& counts = counts_[page->view.device];
  TierBytes(*page) -= page->view.size;
  counts.room -= page->view.size;
  ++counts.promoted;
  page->view.tier = DeviceTier::kDevice;
  page->view.coming = false;
  page->real = std::exchange(page->room, 0);
  return status;
}

}  // namespace tide::pages

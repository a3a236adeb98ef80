// Look-ups in a view of the device table.
#include "coordinator/device_view.h"

namespace tide::coordinator {

const SlotView* DeviceView::Slot(int index) const {
  for (const SlotView& slot : slots) {
    if (slot.index == index) return &slot;
  }
  return nullptr;
}

const SlotView* DeviceView::Find(int64_t pid, uint64_t start_time, int hint) const {
  const auto is_it = [&](const SlotView& slot) {
    return slot.pid == pid && slot.start_time == start_time;
  };
  if (const SlotView* hinted = Slot(hint); hinted != nullptr && is_it(*hinted)) return hinted;
  for (const SlotView& slot : slots) {
    if (is_it(slot)) return &slot;
  }
  return nullptr;
}

const LaneView* DeviceView::Lane(int id) const {
  for (const LaneView& lane : lanes) {
    if (lane.id == id) return &lane;
  }
  return nullptr;
}

const char* PhaseName(shm::Phase phase) {
  switch (phase) {
    case shm::Phase::kWaiting:
      return "waiting";
    case shm::Phase::kRunning:
      return "running";
    case shm::Phase::kLoading:
      return "loading";
    case shm::Phase::kPaused:
      return "paused";
    case shm::Phase::kQueued:
      return "queued";
    case shm::Phase::kOutside:
      break;
  }
  return "outside";
}

}  // namespace tide::coordinator

// Looks after the holder through its pidfd, or its pid and start time where no pidfd can be had.
#include "lane/holder_watch.h"

#include <algorithm>

#include "lane/members.h"

namespace tide::lane {

void HolderWatch::Observe(uint64_t word, int64_t now_ns) {
  if (since_ns_ != 0 && word == word_) return;
  word_ = word;
  since_ns_ = now_ns;
}

bool HolderWatch::HolderGone(shm::DeviceFile& device, LaneId lane) {
  const int holder = shm::TurnWord::Holder(word_);
  if (holder < 0) return false;
  const shm::JobSlot& slot = device.slot(SlotId(holder));
  if (!IsMember(slot, lane)) return true;
  // relaxed: published with the slot's state, which IsMember has acquired
  const int32_t pid = slot.pid.load(std::memory_order_relaxed);
  const uint64_t start_time = slot.start_time.load(std::memory_order_relaxed);
  if (!pidfd_ || pid != pid_ || start_time != start_time_) {
    absl::StatusOr<shm::PidFd> opened = shm::PidFd::Open(pid, start_time);
    pidfd_ = opened.ok() ? *std::move(opened) : shm::PidFd();
    pid_ = pid;
    start_time_ = start_time;
  }
  // Without a pidfd (it has ended, or we are out of descriptors) /proc answers.
  return pidfd_ ? pidfd_.Dead() : !shm::ProcessAlive(pid, start_time);
}

absl::Duration HolderPatience(const shm::JobSlot& holder, absl::Duration grace) {
  constexpr int kIterations = 8;
  constexpr absl::Duration kUnknown = absl::Seconds(30);
  // relaxed: a look at another process, right for any recent values
  const int32_t pid = holder.pid.load(std::memory_order_relaxed);
  const uint64_t start_time = holder.start_time.load(std::memory_order_relaxed);
  if (shm::ProcessStopped(pid, start_time)) return grace;
  const int64_t last_ns = holder.last_iteration_ns.load(std::memory_order_relaxed);
  if (last_ns <= 0) return std::max(grace, kUnknown);
  return std::max(grace, kIterations * absl::Nanoseconds(last_ns));
}

}  // namespace tide::lane

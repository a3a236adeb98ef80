#include "runtime/accounts.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tide::runtime {

Bytes JobAccount::other_bytes() const {
  const shm::JobSlot& own = slot();
  const int64_t window = window_.load(std::memory_order_relaxed);
  const int64_t streamed =
      reserved_.load(std::memory_order_relaxed)
          ? window
          : std::min(own.file_resident_bytes.load(std::memory_order_relaxed), window);
  return Bytes(own.outside_bytes.load(std::memory_order_relaxed) + streamed +
               own.scratch_peak_bytes.load(std::memory_order_relaxed));
}

Bytes JobAccount::private_bytes() const {
  return Bytes(slot().private_bytes.load(std::memory_order_relaxed));
}

absl::Status JobAccount::Reserve(Bytes bytes) {
  const Bytes limit_now = limit();
  if (limit_now > Bytes(0)) {
    const Bytes used = private_bytes() + other_bytes();
    if (used + bytes > limit_now) {
      return absl::OutOfRangeError(absl::StrCat("asked for ", FormatBytes(bytes), ", the job uses ",
                                                FormatBytes(used), " of its limit of ",
                                                FormatBytes(limit_now)));
    }
  }
  return device_.Reserve(slot_, &shm::JobSlot::private_bytes, bytes);
}

void JobAccount::Release(Bytes bytes) {
  device_.Reserve(slot_, &shm::JobSlot::private_bytes, -bytes).IgnoreError();
}

void JobAccount::Force(Bytes bytes) {
  // relaxed: a ledger field is a lone number; sums over slots are approximate while they change
  slot().private_bytes.fetch_add(bytes.value(), std::memory_order_relaxed);
}

void LaneAccount::Attach(LaneId lane) {
  lane_ = lane;
  own_ = Bytes(0);
}

absl::Status LaneAccount::Reserve(Bytes bytes) {
  const Bytes wanted = own_ + bytes;
  const Bytes paid(device_.lane(lane_).scratch_bytes.load(std::memory_order_relaxed));
  if (wanted > paid) {
    absl::Status status = device_.ReserveScratch(slot_, lane_, wanted - paid);
    if (!status.ok()) return status;
  }
  own_ = wanted;
  return absl::OkStatus();
}

}  // namespace tide::runtime

#include "pages/lane_chunks.h"

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace tide::pages {

absl::StatusOr<Chunk> LaneChunks::Take(Bytes size) {
  absl::MutexLock lock(&mu_);
  std::vector<Slot>& slots = slots_[size];
  for (size_t i = 0; i < slots.size(); ++i) {
    if (slots[i].taken) continue;
    slots[i].taken = true;
    return Chunk{slots[i].real, static_cast<int>(i)};
  }
  const int index = static_cast<int>(slots.size());
  TIDE_ASSIGN_OR_RETURN(const cuda::Handle real, Make(size, index));
  slots.push_back({real, true});
  return Chunk{real, index};
}

std::optional<Chunk> LaneChunks::TakeBelow(Bytes size, int index) {
  absl::MutexLock lock(&mu_);
  std::vector<Slot>& slots = slots_[size];
  for (int i = 0; i < index; ++i) {
    Slot& slot = slots[static_cast<size_t>(i)];
    if (slot.taken) continue;
    slot.taken = true;
    return Chunk{slot.real, i};
  }
  return std::nullopt;
}

absl::StatusOr<cuda::Handle> LaneChunks::Make(Bytes size, int index) {
  TIDE_ASSIGN_OR_RETURN(const UniqueFd fd, source_.Hold(size, index + 1));
  cuda::Handle real = 0;
  cuda::Result result = cuda::kSuccess;
  const auto& calls = driver_.calls();
  if (fd) {
    // The driver takes a reference of its own; the descriptor stays ours to close.
    void* shared = reinterpret_cast<void*>(static_cast<intptr_t>(fd.get()));
    result = calls.import_handle(&real, shared, cuda::kHandleFileDescriptor);
  } else {
    cuda::AllocationProperties properties;
    properties.handle_types = cuda::kHandleFileDescriptor;
    properties.location.id = device_;
    result = calls.create(&real, size.size(), &properties, 0);
  }
  if (result == cuda::kSuccess) return real;
  source_.Keep(size, index);
  return driver_.Check(result, absl::StrCat(fd ? "import" : "create", " a chunk of ",
                                            FormatBytes(size), " of the lane's scratch"));
}

void LaneChunks::Return(Bytes size, const Chunk& chunk) {
  absl::MutexLock lock(&mu_);
  slots_[size][static_cast<size_t>(chunk.index)].taken = false;
}

void LaneChunks::Trim() {
  absl::MutexLock lock(&mu_);
  for (auto& [size, slots] : slots_) {
    const size_t before = slots.size();
    while (!slots.empty() && !slots.back().taken) {
      if (driver_.calls().release(slots.back().real) != cuda::kSuccess) break;
      slots.pop_back();
    }
    if (slots.size() < before) source_.Keep(size, static_cast<int>(slots.size()));
  }
}

absl::StatusOr<UniqueFd> LaneChunks::Export(Bytes size, int index) {
  absl::MutexLock lock(&mu_);
  const auto it = slots_.find(size);
  if (it == slots_.end() || index < 0 || index >= static_cast<int>(it->second.size())) {
    return absl::NotFoundError("this process has no such chunk");
  }
  const cuda::ScopedContext context(driver_, device_);
  TIDE_RETURN_IF_ERROR(context.status());
  int fd = -1;
  TIDE_RETURN_IF_ERROR(
      driver_.Check(driver_.calls().export_handle(&fd, it->second[static_cast<size_t>(index)].real,
                                                  cuda::kHandleFileDescriptor, 0),
                    "export a chunk of the lane's scratch"));
  return UniqueFd(fd);
}

Bytes LaneChunks::held() const {
  absl::MutexLock lock(&mu_);
  Bytes sum;
  for (const auto& [size, slots] : slots_) sum += size * static_cast<int64_t>(slots.size());
  return sum;
}

}  // namespace tide::pages

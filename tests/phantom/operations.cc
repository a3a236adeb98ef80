// What is put on a stream: copies, memsets, host functions, kernels, captured graphs.
#include <cstring>

#include "phantom/mover.h"
#include "phantom/settings.h"
#include "phantom/streams.h"

namespace phantom {

double Streams::CopyTime(size_t size) const {
  const double gbps = GetSettings().copy_gbps;
  return gbps > 0 ? static_cast<double>(size) / (gbps * 1e3) : 0;
}

cuda::Result Streams::Copy(Address to, Address from, size_t size, void* handle, bool wait) {
  if (size == 0) return cuda::kSuccess;
  Lock lock(memory_.mu);
  Stream* stream = Find(handle);
  if (stream == nullptr) return cuda::kInvalidHandle;
  const bool to_device = memory_.IsDevice(to), from_device = memory_.IsDevice(from);
  std::shared_ptr<std::vector<char>> staged;
  if (!wait && to_device && !from_device && !memory_.IsPinned(from, size)) {
    // a pageable source may change as soon as the call is over
    const char* source = reinterpret_cast<const char*>(from);
    staged = std::make_shared<std::vector<char>>(source, source + size);
  }
  if (from_device && !to_device && !memory_.IsPinned(to, size) && stream->capture == nullptr) {
    wait = true;  // a pageable target is filled when the call is over
  }
  Operation copy;
  if (to_device) copy.uses.push_back({to, size});
  if (from_device) copy.uses.push_back({from, size});
  copy.work = [this, to, from, size, staged](Lock&) {
    ++copies;
    copied_bytes += size;
    return MoveBytes(memory_, to, staged ? reinterpret_cast<Address>(staged->data()) : from, size);
  };
  return Push(lock, stream, std::move(copy), CopyTime(size), wait);
}

cuda::Result Streams::Copy2D(Address to, size_t to_pitch, Address from, size_t from_pitch,
                             size_t width, size_t height, void* handle, bool wait) {
  if (width == 0 || height == 0) return cuda::kSuccess;
  Lock lock(memory_.mu);
  Stream* stream = Find(handle);
  if (stream == nullptr) return cuda::kInvalidHandle;
  for (Address at : {to, from}) {
    const bool pageable = !memory_.IsDevice(at) && !memory_.IsPinned(at, width);
    if (pageable && stream->capture == nullptr) wait = true;
  }
  Operation copy;
  copy.work = [=, this](Lock&) {
    ++copies;
    copied_bytes += width * height;
    for (size_t row = 0; row < height; ++row) {
      if (auto error = MoveBytes(memory_, to + row * to_pitch, from + row * from_pitch, width)) {
        return error;
      }
    }
    return cuda::kSuccess;
  };
  return Push(lock, stream, std::move(copy), CopyTime(width * height), wait);
}

cuda::Result Streams::Fill(Address to, uint32_t value, size_t element, size_t count, void* handle,
                           bool wait) {
  if (count == 0) return cuda::kSuccess;
  Lock lock(memory_.mu);
  Stream* stream = Find(handle);
  if (stream == nullptr) return cuda::kInvalidHandle;
  Operation fill;
  fill.uses.push_back({to, element * count});
  fill.work = [=, this](Lock&) { return FillBytes(memory_, to, value, element, count); };
  return Push(lock, stream, std::move(fill), 1, wait);
}

cuda::Result Streams::HostFunction(void* handle, void (*function)(void*), void* argument) {
  Lock lock(memory_.mu);
  Stream* stream = Find(handle);
  if (stream == nullptr) return cuda::kInvalidHandle;
  Operation call;
  call.runs_after_failure = true;
  call.work = [function, argument](Lock& held) {
    held.unlock();
    function(argument);
    held.lock();
    return cuda::kSuccess;
  };
  return Push(lock, stream, std::move(call), 0, false);
}

cuda::Result Streams::Launch(void* handle, const unsigned grid[3], const unsigned block[3],
                             const std::vector<Address>& values) {
  const uint64_t threads = uint64_t{block[0]} * block[1] * block[2];
  if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0 || threads == 0 || threads > 1024 ||
      grid[1] > 65535 || grid[2] > 65535) {
    Complain("launch of grid %u,%u,%u with %llu threads a block", grid[0], grid[1], grid[2],
             static_cast<unsigned long long>(threads));
    return cuda::kInvalidValue;
  }
  Lock lock(memory_.mu);
  Stream* stream = Find(handle);
  if (stream == nullptr) return cuda::kInvalidHandle;
  Operation kernel;
  for (Address value : values) {
    if (memory_.IsDevice(value)) kernel.uses.push_back({value, 1});
  }
  kernel.work = [this, uses = kernel.uses](Lock&) {
    ++launches;
    for (const Operation::Range& used : uses) {
      ++looked_at;
      if (auto error = TouchBytes(memory_, used.at, used.size)) return error;
    }
    return cuda::kSuccess;
  };
  return Push(lock, stream, std::move(kernel), GetSettings().kernel_us, false);
}

cuda::Result Streams::Touch(Address at, size_t size, void* handle, double us) {
  Lock lock(memory_.mu);
  Stream* stream = Find(handle);
  if (stream == nullptr) return cuda::kInvalidHandle;
  Operation kernel;
  kernel.uses.push_back({at, size});
  kernel.work = [this, at, size](Lock&) { return TouchBytes(memory_, at, size); };
  return Push(lock, stream, std::move(kernel), us, false);
}

// ---- captured graphs: a list that a launch repeats ----

cuda::Result Streams::BeginCapture(void* handle) {
  Lock lock(memory_.mu);
  Stream* stream = Find(handle);
  if (stream == nullptr) return cuda::kInvalidHandle;
  if (stream->capture != nullptr || stream->is_default) return cuda::kCaptureUnsupported;
  stream->capture = new Graph;
  stream->capture->id = next_capture_++;
  stream->capture->members = {stream};
  return cuda::kSuccess;
}

cuda::Result Streams::EndCapture(void* handle, void** graph) {
  Lock lock(memory_.mu);
  Stream* stream = Find(handle);
  if (stream == nullptr) return cuda::kInvalidHandle;
  if (stream->capture == nullptr) return cuda::kInvalidValue;
  Graph* captured = stream->capture;
  for (Stream* member : captured->members) member->capture = nullptr;
  captured->members.clear();
  *graph = captured;
  return cuda::kSuccess;
}

cuda::Result Streams::CaptureInfo(void* handle, int* status, unsigned long long* id, void** graph) {
  Lock lock(memory_.mu);
  Stream* stream = Find(handle);
  if (stream == nullptr) return cuda::kInvalidHandle;
  *status = stream->capture != nullptr ? 1 : 0;
  if (id != nullptr) *id = stream->capture != nullptr ? stream->capture->id : 0;
  if (graph != nullptr) *graph = stream->capture;
  return cuda::kSuccess;
}

cuda::Result Streams::LaunchGraph(void* graph, void* handle) {
  Lock lock(memory_.mu);
  Stream* stream = Find(handle);
  if (stream == nullptr) return cuda::kInvalidHandle;
  for (const Operation& operation : static_cast<Graph*>(graph)->operations) {
    if (auto error = Push(lock, stream, operation, GetSettings().kernel_us, false)) return error;
  }
  return sticky_;
}

void* Streams::CloneGraph(void* graph) { return new Graph(*static_cast<Graph*>(graph)); }
void Streams::FreeGraph(void* graph) { delete static_cast<Graph*>(graph); }
size_t Streams::GraphSize(void* graph) { return static_cast<Graph*>(graph)->operations.size(); }

}  // namespace phantom

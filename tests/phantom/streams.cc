#include "phantom/streams.h"

#include <algorithm>
#include <condition_variable>
#include <ctime>

#include "phantom/mover.h"
#include "phantom/settings.h"

namespace phantom {

struct Event {
  unsigned flags = 0;  // 2: no timing
  Stream* stream = nullptr;
  uint64_t position = 0;
  uint64_t generation = 0;
  double time_us = 0;
  bool recorded = false;
  Graph* capture = nullptr;
};

namespace {

thread_local int current_device = 0;
std::condition_variable& Changed() {
  static std::condition_variable& changed = *new std::condition_variable;
  return changed;
}

constexpr int kPollsUntilDone = 3;  // under kLate: a poller must not wait for ever

double NowUs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) * 1e-3;
}

Delay Mode() { return GetSettings().delay; }

}  // namespace

Streams& GetStreams() {
  static Streams& streams = *new Streams(GetMemory());
  return streams;
}

int Streams::CurrentDevice() { return current_device; }

cuda::Result Streams::SetDevice(int device) {
  if (auto error = memory_.Init()) return error;
  if (device < 0 || device >= memory_.device_count()) return cuda::kInvalidDevice;
  current_device = device;
  return cuda::kSuccess;
}

void Streams::Forgive() {
  Lock lock(memory_.mu);
  sticky_ = cuda::kSuccess;
}

// ---- the queue ----

Stream* Streams::DefaultStream(int device) {
  if (static_cast<int>(defaults_.size()) <= device) defaults_.resize(device + 1, nullptr);
  if (defaults_[device] == nullptr) {
    auto* stream = new Stream;
    stream->device = device;
    stream->is_default = true;
    defaults_[device] = stream;
    streams_.insert(stream);
  }
  return defaults_[device];
}

Stream* Streams::Find(void* handle) {
  // null, 1 and 2 name the default streams
  if (reinterpret_cast<uintptr_t>(handle) <= 2) return DefaultStream(current_device);
  auto* stream = static_cast<Stream*>(handle);
  return streams_.count(stream) != 0 ? stream : nullptr;
}

Event* Streams::FindEvent(void* handle) {
  auto* event = static_cast<Event*>(handle);
  return events_.count(event) != 0 ? event : nullptr;
}

void Streams::RunUntil(Lock& lock, Stream* stream, uint64_t until) {
  while (stream->done < until) {
    if (stream->busy) {
      Changed().wait(lock);
      continue;
    }
    if (stream->queue.empty()) return;
    stream->busy = true;
    Operation operation = std::move(stream->queue.front());
    stream->queue.pop_front();
    while (Mode() == Delay::kTimed && NowUs() < operation.due_us) {
      Changed().wait_for(
          lock, std::chrono::microseconds(static_cast<int64_t>(operation.due_us - NowUs()) + 1));
    }
    if (operation.work && (sticky_ == cuda::kSuccess || operation.runs_after_failure)) {
      const cuda::Result result = operation.work(lock);
      if (result != cuda::kSuccess && sticky_ == cuda::kSuccess) sticky_ = result;
    }
    ++stream->done;
    stream->busy = false;
    Changed().notify_all();
  }
}

void Streams::RunDue(Lock& lock, Stream* stream) {
  if (Mode() != Delay::kTimed) return;
  const double now = NowUs();
  uint64_t until = stream->done;
  for (const Operation& operation : stream->queue) {
    if (operation.due_us > now) break;
    ++until;
  }
  RunUntil(lock, stream, until);
}

void Streams::PushWait(Stream* stream, Stream* other, uint64_t until) {
  Operation wait;
  wait.runs_after_failure = true;
  wait.work = [this, other, until](Lock& lock) {
    if (streams_.count(other) != 0) RunUntil(lock, other, until);
    return cuda::kSuccess;
  };
  stream->tail_us = wait.due_us = std::max(stream->tail_us, other->tail_us);
  stream->queue.push_back(std::move(wait));
  ++stream->pushed;
}

void Streams::WaitForOthers(Stream* stream) {
  if (Mode() == Delay::kNone) return;
  if (!stream->is_default) {
    Stream* other = DefaultStream(stream->device);
    if ((stream->flags & 1) == 0 && other->done < other->pushed) {
      PushWait(stream, other, other->pushed);
    }
    return;
  }
  for (Stream* other : streams_) {
    const bool blocking =
        other != stream && other->device == stream->device && (other->flags & 1) == 0;
    if (blocking && other->done < other->pushed) PushWait(stream, other, other->pushed);
  }
}

cuda::Result Streams::Push(Lock& lock, Stream* stream, Operation operation, double us, bool wait) {
  if (stream->capture != nullptr) {
    if (wait) return cuda::kCaptureUnsupported;
    stream->capture->operations.push_back(std::move(operation));
    return cuda::kSuccess;
  }
  if (sticky_ != cuda::kSuccess) return sticky_;
  WaitForOthers(stream);
  if (Mode() == Delay::kTimed) {
    stream->tail_us = std::max(stream->tail_us, NowUs()) + us;
    operation.due_us = stream->tail_us;
  }
  stream->queue.push_back(std::move(operation));
  ++stream->pushed;
  stream->polls = 0;
  if (Mode() == Delay::kNone || wait) RunUntil(lock, stream, stream->pushed);
  return sticky_;
}

cuda::Result Streams::Poll(Lock& lock, Stream* stream, uint64_t until) {
  if (sticky_ != cuda::kSuccess) return sticky_;
  RunDue(lock, stream);
  if (stream->done >= until) return sticky_;
  if (Mode() == Delay::kLate && ++stream->polls >= kPollsUntilDone) {
    RunUntil(lock, stream, until);
    stream->polls = 0;
    return sticky_;
  }
  return cuda::kNotReady;
}

// ---- streams ----

cuda::Result Streams::Create(unsigned flags, int priority, void** out) {
  if (auto error = memory_.Init()) return error;
  Lock lock(memory_.mu);
  auto* stream = new Stream;
  stream->device = current_device;
  stream->flags = flags;
  stream->priority = priority;
  streams_.insert(stream);
  *out = stream;
  return cuda::kSuccess;
}

cuda::Result Streams::Destroy(void* handle) {
  Lock lock(memory_.mu);
  Stream* stream = Find(handle);
  if (stream == nullptr || stream->is_default) return cuda::kInvalidHandle;
  RunUntil(lock, stream, stream->pushed);
  streams_.erase(stream);  // not deleted: events may point at it
  return cuda::kSuccess;
}

cuda::Result Streams::Query(void* handle) {
  Lock lock(memory_.mu);
  Stream* stream = Find(handle);
  return stream == nullptr ? cuda::kInvalidHandle : Poll(lock, stream, stream->pushed);
}

cuda::Result Streams::Synchronize(void* handle) {
  Lock lock(memory_.mu);
  Stream* stream = Find(handle);
  if (stream == nullptr) return cuda::kInvalidHandle;
  if (stream->capture != nullptr) return cuda::kCaptureUnsupported;
  RunUntil(lock, stream, stream->pushed);
  return sticky_;
}

cuda::Result Streams::SynchronizeDevice() {
  Lock lock(memory_.mu);
  const std::vector<Stream*> all(streams_.begin(), streams_.end());
  for (Stream* stream : all) {
    if (stream->device == current_device && streams_.count(stream) != 0) {
      RunUntil(lock, stream, stream->pushed);
    }
  }
  return sticky_;
}

void Streams::Unmapping(Address at, size_t size) {
  Lock lock(memory_.mu);
  for (const Stream* stream : streams_) {
    for (const Operation& operation : stream->queue) {
      for (const Operation::Range& used : operation.uses) {
        if (used.at >= at + size || at >= used.at + used.size) continue;
        Complain("cuMemUnmap of device address %llx, which work that was put on a stream will use",
                 static_cast<unsigned long long>(used.at));
        if (sticky_ == cuda::kSuccess) sticky_ = cuda::kIllegalAddress;
      }
    }
  }
}

size_t Streams::pending() {
  Lock lock(memory_.mu);
  size_t count = 0;
  for (const Stream* stream : streams_) count += stream->queue.size();
  return count;
}

int Streams::Priority(void* handle) {
  Lock lock(memory_.mu);
  Stream* stream = Find(handle);
  return stream == nullptr ? 0 : stream->priority;
}

// ---- events ----

cuda::Result Streams::CreateEvent(unsigned flags, void** out) {
  if (auto error = memory_.Init()) return error;
  Lock lock(memory_.mu);
  auto* event = new Event;
  event->flags = flags;
  events_.insert(event);
  *out = event;
  return cuda::kSuccess;
}

cuda::Result Streams::DestroyEvent(void* handle) {
  Lock lock(memory_.mu);
  Event* event = FindEvent(handle);
  if (event == nullptr) return cuda::kInvalidHandle;
  events_.erase(event);
  delete event;
  return cuda::kSuccess;
}

cuda::Result Streams::Record(void* handle, void* stream_handle) {
  Lock lock(memory_.mu);
  Event* event = FindEvent(handle);
  Stream* stream = Find(stream_handle);
  if (event == nullptr || stream == nullptr) return cuda::kInvalidHandle;
  event->capture = stream->capture;
  if (stream->capture != nullptr) return cuda::kSuccess;
  Operation mark;
  mark.runs_after_failure = true;
  mark.work = [this, event, generation = ++event->generation](Lock&) {
    if (events_.count(event) != 0 && event->generation == generation) event->time_us = NowUs();
    return cuda::kSuccess;
  };
  event->stream = stream;
  event->recorded = true;
  const cuda::Result result = Push(lock, stream, std::move(mark), 0, false);
  if (events_.count(event) != 0) event->position = stream->pushed;
  return result;
}

cuda::Result Streams::QueryEvent(void* handle) {
  Lock lock(memory_.mu);
  Event* event = FindEvent(handle);
  if (event == nullptr) return cuda::kInvalidHandle;
  return event->recorded ? Poll(lock, event->stream, event->position) : cuda::kSuccess;
}

cuda::Result Streams::SynchronizeEvent(void* handle) {
  Lock lock(memory_.mu);
  Event* event = FindEvent(handle);
  if (event == nullptr) return cuda::kInvalidHandle;
  if (event->recorded) RunUntil(lock, event->stream, event->position);
  return sticky_;
}

cuda::Result Streams::Elapsed(void* from, void* to, float* ms) {
  Lock lock(memory_.mu);
  Event* first = FindEvent(from);
  Event* last = FindEvent(to);
  for (Event* event : {first, last}) {
    if (event == nullptr || (event->flags & 2) != 0 || !event->recorded)
      return cuda::kInvalidHandle;
  }
  for (Event* event : {first, last}) {
    if (event->stream->done < event->position) return cuda::kNotReady;
  }
  *ms = static_cast<float>((last->time_us - first->time_us) / 1e3);
  return cuda::kSuccess;
}

cuda::Result Streams::WaitEvent(void* stream_handle, void* handle) {
  Lock lock(memory_.mu);
  Event* event = FindEvent(handle);
  Stream* stream = Find(stream_handle);
  if (event == nullptr || stream == nullptr) return cuda::kInvalidHandle;
  if (event->capture != nullptr && stream->capture == nullptr) {  // the capture spreads
    stream->capture = event->capture;
    event->capture->members.push_back(stream);
    return cuda::kSuccess;
  }
  if (stream->capture != nullptr || !event->recorded || event->stream == stream) {
    return cuda::kSuccess;
  }
  if (event->stream->done < event->position) PushWait(stream, event->stream, event->position);
  return sticky_;
}

}  // namespace phantom

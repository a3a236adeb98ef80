// Streams, events and captured graphs: operations that happen when they have to, not when they are
// asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_set>
#include <vector>

#include "phantom/memory.h"

namespace phantom {

struct Event;
struct Graph;
struct Stream;

/// One entry of a stream's queue.
struct Operation {
  /// Does the work, with the engine's lock held; the lock may be let go inside. Empty: a mark only.
  std::function<cuda::Result(std::unique_lock<std::mutex>&)> work;
  bool runs_after_failure = false;  // waits, records and host functions do, work on memory does not
  double due_us = 0;                // under Delay::kTimed
  struct Range {
    Address at;
    size_t size;
  };
  std::vector<Range> uses;  // device memory that the work will read or write
};

struct Stream {
  int device = 0;
  unsigned flags = 0;  // 1: does not wait for the default stream
  int priority = 0;
  bool is_default = false;
  bool busy = false;
  uint64_t pushed = 0;
  uint64_t done = 0;
  int polls = 0;
  double tail_us = 0;
  std::deque<Operation> queue;
  Graph* capture = nullptr;
};

/// A list of operations that a launch repeats; forks and joins are flattened to one order.
struct Graph {
  std::vector<Operation> operations;
  unsigned long long id = 0;
  std::vector<Stream*> members;  // streams that still capture
};

/// All results are driver results; a device that has failed stays failed (sticky).
class Streams {
 public:
  explicit Streams(Memory& memory) : memory_(memory) {}

  static int CurrentDevice();
  cuda::Result SetDevice(int device);
  cuda::Result sticky() const { return sticky_; }
  /// For tests in one process: the device works again.
  void Forgive();

  cuda::Result Create(unsigned flags, int priority, void** out);
  cuda::Result Destroy(void* stream);
  cuda::Result Query(void* stream);
  cuda::Result Synchronize(void* stream);
  cuda::Result SynchronizeDevice();
  cuda::Result WaitEvent(void* stream, void* event);
  int Priority(void* stream);

  cuda::Result CreateEvent(unsigned flags, void** out);
  cuda::Result DestroyEvent(void* event);
  cuda::Result Record(void* event, void* stream);
  cuda::Result QueryEvent(void* event);
  cuda::Result SynchronizeEvent(void* event);
  cuda::Result Elapsed(void* from, void* to, float* ms);

  cuda::Result Copy(Address to, Address from, size_t size, void* stream, bool wait);
  cuda::Result Copy2D(Address to, size_t to_pitch, Address from, size_t from_pitch, size_t width,
                      size_t height, void* stream, bool wait);
  cuda::Result Fill(Address to, uint32_t value, size_t element, size_t count, void* stream,
                    bool wait);
  cuda::Result HostFunction(void* stream, void (*function)(void*), void* argument);
  /// A kernel that does nothing, but for a look whether the device addresses among `values` are
  /// mapped when its turn comes.
  cuda::Result Launch(void* stream, const unsigned grid[3], const unsigned block[3],
                      const std::vector<Address>& values = {});
  /// A stand-in kernel that uses [at, at + size) when its turn comes.
  cuda::Result Touch(Address at, size_t size, void* stream, double us);

  cuda::Result BeginCapture(void* stream);
  cuda::Result EndCapture(void* stream, void** graph);
  cuda::Result CaptureInfo(void* stream, int* status, unsigned long long* id, void** graph);
  cuda::Result LaunchGraph(void* graph, void* stream);
  static void* CloneGraph(void* graph);
  static void FreeGraph(void* graph);
  static size_t GraphSize(void* graph);

  /// The range is about to be unmapped: what still waits to use it makes the device fail, as a
  /// kernel would that runs on addresses without memory.
  void Unmapping(Address at, size_t size);
  /// How many operations of all streams have not happened yet.
  size_t pending();

  uint64_t launches = 0;
  uint64_t looked_at = 0;  // addresses of kernels
  uint64_t copies = 0;
  uint64_t copied_bytes = 0;

 private:
  using Lock = std::unique_lock<std::mutex>;
  Stream* Find(void* handle);
  Event* FindEvent(void* handle);
  Stream* DefaultStream(int device);
  cuda::Result Push(Lock& lock, Stream* stream, Operation operation, double us, bool wait);
  void WaitForOthers(Stream* stream);
  void PushWait(Stream* stream, Stream* other, uint64_t until);
  void RunUntil(Lock& lock, Stream* stream, uint64_t until);
  void RunDue(Lock& lock, Stream* stream);
  cuda::Result Poll(Lock& lock, Stream* stream, uint64_t until);
  double CopyTime(size_t size) const;

  Memory& memory_;
  std::unordered_set<Stream*> streams_;
  std::unordered_set<Event*> events_;
  std::vector<Stream*> defaults_;
  unsigned long long next_capture_ = 1;
  cuda::Result sticky_ = cuda::kSuccess;
};

Streams& GetStreams();

}  // namespace phantom

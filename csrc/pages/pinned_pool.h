// Host memory that a device reads and writes at the speed of the bus, where pages wait that are
// away.
#pragma once

#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/bytes.h"
#include "pages/cuda_driver.h"

namespace tide::pages {

/// Blocks cut from chunks of huge pages that are registered with the driver. On an H200 with driver
/// 580 registering huge pages runs at 37 GiB/s and filling them in at 5 to 25 GiB/s, while the
/// driver's own cuMemHostAlloc makes 1.9 GiB/s: docs/decisions/0021. Thread-safe.
class PinnedPool {
 public:
  explicit PinnedPool(const cuda::Driver& driver) : driver_(driver) {}
  ~PinnedPool();
  PinnedPool(const PinnedPool&) = delete;
  PinnedPool& operator=(const PinnedPool&) = delete;

  /// Begins to make, on threads of its own, what is missing to blocks of `bytes` in all. What
  /// fails is tried again by the Acquire that needs it.
  void Prepare(Bytes bytes);
  /// A block aligned to kPage; waits for what is being made. Errors: ResourceExhausted when the
  /// system has no memory, the driver's when it does not take it.
  absl::StatusOr<char*> Acquire(Bytes size);
  void Release(char* block, Bytes size);
  /// Gives unused chunks back until at most `keep` bytes are held. A chunk that the driver does not
  /// let go stays and is tried again by the next call.
  void Trim(Bytes keep);
  /// Of all chunks, used and unused.
  Bytes held() const;
  Bytes used() const;

 private:
  struct Chunk {
    char* base = nullptr;
    Bytes size;
    std::vector<bool> taken;  // of each kPage
    Bytes used;
  };
  absl::StatusOr<std::unique_ptr<Chunk>> MakeChunk(Bytes size);
  absl::Status DropChunk(const Chunk& chunk);
  void Work();
  char* Cut(Bytes size) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void JoinWorkers();

  const cuda::Driver& driver_;
  mutable absl::Mutex mu_;
  absl::CondVar made_;
  std::vector<std::unique_ptr<Chunk>> chunks_ ABSL_GUARDED_BY(mu_);
  std::vector<Bytes> orders_ ABSL_GUARDED_BY(mu_);  // sizes of chunks that workers have to make
  int at_work_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Mutex prepare_mu_;  // taken before mu_
  std::vector<std::thread> workers_ ABSL_GUARDED_BY(prepare_mu_);
};

}  // namespace tide::pages

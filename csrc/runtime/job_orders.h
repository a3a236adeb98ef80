// Orders of the daemon that are for an elastic job as a whole, carried out through the memory that
// its processes share.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "elastic/group.h"

namespace tide::runtime {

/// A process that paused by itself would leave the others in an exchange that waits for it; so an
/// order to one of them becomes a wish of the job, which all follow before the same step. Any
/// number of processes may be told the same. Thread-safe.
class JobOrders {
 public:
  enum class Kind { kPause, kResume, kResize };
  struct Request {
    int64_t id = 0;
    Kind kind = Kind::kPause;
    uint32_t processes = 0;  // of kResize
    absl::Time deadline = absl::InfiniteFuture();
  };
  /// OK; DeadlineExceeded when it was undone; others when the job refused it.
  using Done = std::function<void(const absl::Status&, absl::Duration took, const std::string&)>;
  struct Sizes {
    uint32_t processes = 0;  // that carry the job now
    uint32_t low = 0, high = 0;
  };

  explicit JobOrders(std::unique_ptr<elastic::Group> group) : group_(std::move(group)) {}

  /// Whether the job trains; afterwards an order is this process's own.
  bool active() const;
  Sizes sizes() const;
  /// Whether all of its processes wait, paused.
  bool paused() const;
  /// Says the wish; `done` comes from here when the job refuses it, else from Look. An order that
  /// is under way already is left alone.
  void Put(const Request& request, absl::Time now, Done done);
  /// Answers what has been followed, and undoes what has not been in time.
  void Look(absl::Time now);

 private:
  struct Pending {
    Request request;
    absl::Time since;
    uint32_t from = 0;  // processes before
    Done done;
  };
  absl::Status Say(const Request& request);
  /// Whether it is over, and how.
  bool Settled(const Pending& pending, absl::Time now, absl::Status& how);
  absl::Status Undo(const Pending& pending);

  const std::unique_ptr<elastic::Group> group_;
  absl::Mutex mu_;
  std::vector<Pending> pending_ ABSL_GUARDED_BY(mu_);
};

}  // namespace tide::runtime

// What others want of this job, kept until the next quiet point: grants, suspend and resume, with
// answers.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/bytes.h"

namespace tide::runtime {

enum class GrantStatus { kApplied, kDeferred, kStale, kConflict };

struct GrantRequest {
  int64_t revision = 0;  // 0: from the API of this process, which takes the next one
  Bytes limit;           // 0: none
  Bytes guaranteed;
};

struct GrantResult {
  GrantStatus status = GrantStatus::kApplied;
  int64_t revision = 0;
  Bytes overage;  // how far the limit is below the smallest possible
  Bytes moved;
  absl::Duration took;
  std::vector<std::pair<std::string, Bytes>> parts;  // of the smallest possible limit
  std::string text;
};

enum class MoveKind { kSuspend, kResume, kLimitDevice };

struct MoveRequest {
  int64_t order_id = 0;
  MoveKind kind = MoveKind::kSuspend;
  absl::Time deadline = absl::InfiniteFuture();
  int device = 0;  // of kLimitDevice, with its limit; 0: none
  Bytes limit;
  bool deep = false;  // of kSuspend: contexts leave the devices too
};

struct MoveResult {
  absl::Status status;
  absl::Duration took;
  std::string text;
};

/// Thread-safe mailbox between whoever orders and the stepping thread. At most one grant is
/// pending: a newer revision replaces an older one, which is answered as stale.
class Orders {
 public:
  using GrantDone = std::function<void(const GrantResult&)>;
  using MoveDone = std::function<void(const MoveResult&)>;

  /// Callbacks run on the thread that carries the order out, or on this one when it is stale.
  void PutGrant(const GrantRequest& request, GrantDone done);
  void PutMove(const MoveRequest& request, MoveDone done);

  struct PendingGrant {
    GrantRequest request;
    GrantDone done;
  };
  struct PendingMove {
    MoveRequest request;
    MoveDone done;
  };
  std::optional<PendingGrant> TakeGrant();
  std::optional<PendingMove> TakeMove();
  bool Empty();
  /// Whether the move that TakeMove would return suspends.
  bool Suspends();
  /// The latest revision that was put.
  int64_t revision();

 private:
  absl::Mutex mu_;
  std::optional<PendingGrant> grant_ ABSL_GUARDED_BY(mu_);
  std::vector<PendingMove> moves_ ABSL_GUARDED_BY(mu_);
  int64_t revision_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace tide::runtime

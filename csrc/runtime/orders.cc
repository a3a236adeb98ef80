#include "runtime/orders.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tide::runtime {

void Orders::PutGrant(const GrantRequest& request, GrantDone done) {
  PendingGrant pending{request, std::move(done)};
  std::optional<PendingGrant> stale;
  {
    absl::MutexLock lock(&mu_);
    if (pending.request.revision == 0) pending.request.revision = revision_ + 1;
    if (pending.request.revision <= revision_) {
      stale = std::move(pending);
    } else {
      revision_ = pending.request.revision;
      if (grant_) stale = std::move(*grant_);
      grant_ = std::move(pending);
    }
  }
  if (!stale) return;
  GrantResult result;
  result.status = GrantStatus::kStale;
  result.revision = stale->request.revision;
  result.text = absl::StrCat("revision ", stale->request.revision, " was overtaken by a newer one");
  if (stale->done) stale->done(result);
}

void Orders::PutMove(const MoveRequest& request, MoveDone done) {
  absl::MutexLock lock(&mu_);
  moves_.push_back({request, std::move(done)});
}

std::optional<Orders::PendingGrant> Orders::TakeGrant() {
  absl::MutexLock lock(&mu_);
  std::optional<PendingGrant> taken;
  taken.swap(grant_);
  return taken;
}

std::optional<Orders::PendingMove> Orders::TakeMove() {
  absl::MutexLock lock(&mu_);
  if (moves_.empty()) return std::nullopt;
  PendingMove first = std::move(moves_.front());
  moves_.erase(moves_.begin());
  return first;
}

bool Orders::Empty() {
  absl::MutexLock lock(&mu_);
  return !grant_ && moves_.empty();
}

bool Orders::Suspends() {
  absl::MutexLock lock(&mu_);
  return !moves_.empty() && moves_.front().request.kind == MoveKind::kSuspend;
}

int64_t Orders::revision() {
  absl::MutexLock lock(&mu_);
  return revision_;
}

}  // namespace tide::runtime

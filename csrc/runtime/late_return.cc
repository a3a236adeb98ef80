#include "runtime/late_return.h"

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"

namespace tide::runtime {

using pages::cuda::Handle;

LateReturn::~LateReturn() { Stop(); }

void LateReturn::Begin(const std::vector<Handle>& tokens) {
  if (tokens.empty()) return;
  absl::MutexLock finishing(&finish_mu_);
  {
    absl::MutexLock lock(&mu_);
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    count_.store(tokens_.size(), std::memory_order_release);
    if (running_) return;
    running_ = true;
    stop_ = false;
  }
  Join();  // of an earlier time: it has ended
  thread_ = std::thread([this] { Work(); });
  started_.store(true, std::memory_order_relaxed);  // under finish_mu_, as what it stands for
}

void LateReturn::Join() {
  if (thread_.joinable()) thread_.join();
  started_.store(false, std::memory_order_relaxed);
}

absl::Status LateReturn::BringBack(Handle token) {
  const absl::Status status = pages_.PromoteBeside(token);
  // Freed meanwhile, or back already by another way.
  if (absl::IsNotFound(status) || absl::IsFailedPrecondition(status)) return absl::OkStatus();
  return status;
}

void LateReturn::Work() {
  while (true) {
    Handle token = 0;
    {
      absl::MutexLock lock(&mu_);
      if (tokens_.empty() || stop_) {
        running_ = false;
        return;
      }
      token = tokens_.front();
    }
    const absl::Status status = BringBack(token);
    if (!status.ok()) {  // whoever waits for it tries once more, and hears why
      Log(LogLevel::kWarning,
          absl::StrCat("event=late_return_failed status=\"", status.ToString(), "\""));
    }
    absl::MutexLock lock(&mu_);
    if (!status.ok()) {
      running_ = false;
      return;
    }
    tokens_.pop_front();
    count_.store(tokens_.size(), std::memory_order_release);
  }
}

absl::Status LateReturn::Finish() {
  // relaxed: a thread that is not seen here is joined by the next call
  if (!pending() && !started_.load(std::memory_order_relaxed)) return absl::OkStatus();
  absl::MutexLock finishing(&finish_mu_);
  Join();
  while (true) {
    Handle token = 0;
    {
      absl::MutexLock lock(&mu_);
      if (tokens_.empty()) return absl::OkStatus();
      token = tokens_.front();
    }
    TIDE_RETURN_IF_ERROR(BringBack(token));
    absl::MutexLock lock(&mu_);
    tokens_.pop_front();
    count_.store(tokens_.size(), std::memory_order_release);
  }
}

void LateReturn::Stop() {
  absl::MutexLock finishing(&finish_mu_);
  {
    absl::MutexLock lock(&mu_);
    stop_ = true;
  }
  Join();
  std::deque<Handle> left;
  {
    absl::MutexLock lock(&mu_);
    left.swap(tokens_);
    count_.store(0, std::memory_order_release);
  }
  for (Handle token : left) pages_.LetRoomGo(token);
}

}  // namespace tide::runtime

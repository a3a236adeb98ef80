#include "runtime/late_return.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"

namespace tide::runtime {

using pages::cuda::Handle;

LateReturn::~LateReturn() { Stop(); }

void LateReturn::Begin(const std::vector<pages::DevicePage>& pages) {
  if (pages.empty()) return;
  absl::MutexLock finishing(&finish_mu_);
  {
    absl::MutexLock lock(&mu_);
    for (const pages::DevicePage& page : pages) {
      queue_.push_back(page.address);
      places_[page.address] = {page.address, page.address + page.size.size(), page.token};
    }
    count_.store(queue_.size(), std::memory_order_release);
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

std::optional<LateReturn::Place> LateReturn::Front() {
  if (queue_.empty()) return std::nullopt;
  return places_.at(queue_.front());
}

std::optional<LateReturn::Place> LateReturn::FirstWithin(const pages::ColdRange& range) {
  auto it = places_.upper_bound(range.at);
  if (it != places_.begin() && std::prev(it)->second.end > range.at) --it;
  if (it == places_.end() || it->first >= range.at + range.size.size()) return std::nullopt;
  return it->second;
}

void LateReturn::Arrived(Address at) {
  if (places_.erase(at) == 0) return;
  queue_.erase(std::find(queue_.begin(), queue_.end(), at));
  count_.store(queue_.size(), std::memory_order_release);
  arrived_.SignalAll();
}

void LateReturn::PutNext(Address at) {
  const auto found = std::find(queue_.begin(), queue_.end(), at);
  if (found - queue_.begin() < 2) return;  // it is on its way, or the next
  queue_.erase(found);
  queue_.insert(queue_.begin() + 1, at);
}

absl::Status LateReturn::Fetch(const Place& page) {
  mu_.Unlock();
  const absl::Status status = BringBack(page.token);
  mu_.Lock();
  if (status.ok()) Arrived(page.at);
  return status;
}

void LateReturn::Work() {
  absl::Status failed;
  {
    absl::MutexLock lock(&mu_);
    while (const std::optional<Place> page = Front()) {
      if (stop_) break;
      failed = Fetch(*page);
      if (!failed.ok()) break;
    }
    running_ = false;
    arrived_.SignalAll();
  }
  if (failed.ok()) return;  // else whoever waits for it tries once more, and hears why
  Log(LogLevel::kWarning,
      absl::StrCat("event=late_return_failed status=\"", failed.ToString(), "\""));
}

absl::Status LateReturn::Finish() {
  // relaxed: a thread that is not seen here is joined by the next call
  if (!pending() && !started_.load(std::memory_order_relaxed)) return absl::OkStatus();
  absl::MutexLock finishing(&finish_mu_);
  Join();
  absl::MutexLock lock(&mu_);
  while (const std::optional<Place> page = Front()) {
    TIDE_RETURN_IF_ERROR(Fetch(*page));
  }
  return absl::OkStatus();
}

absl::Status LateReturn::Await(const pages::ColdRange& range) {
  if (!pending()) return absl::OkStatus();
  absl::MutexLock lock(&mu_);
  bool waited = false;
  while (const std::optional<Place> page = FirstWithin(range)) {
    PutNext(page->at);
    if (!std::exchange(waited, true)) waits_.fetch_add(1, std::memory_order_relaxed);
    if (running_) {
      arrived_.Wait(&mu_);
      continue;
    }
    TIDE_RETURN_IF_ERROR(Fetch(*page));
  }
  return absl::OkStatus();
}

void LateReturn::Stop() {
  absl::MutexLock finishing(&finish_mu_);
  {
    absl::MutexLock lock(&mu_);
    stop_ = true;
  }
  Join();
  std::map<Address, Place> left;
  {
    absl::MutexLock lock(&mu_);
    left.swap(places_);
    queue_.clear();
    count_.store(0, std::memory_order_release);
    arrived_.SignalAll();
  }
  for (const auto& [at, page] : left) pages_.LetRoomGo(page.token);
}

}  // namespace tide::runtime

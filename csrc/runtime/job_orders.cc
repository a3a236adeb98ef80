#include "runtime/job_orders.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shm/process.h"

namespace tide::runtime {

using elastic::GenerationWord;
using elastic::GroupHeader;
using elastic::MemberSlot;
using elastic::PauseWord;

namespace {

/// The members of the newest generation, as bits.
uint32_t Members(const GroupHeader& header) {
  const uint32_t latest = header.latest.load();
  return latest > 0 ? GenerationWord::Members(header.generations[latest - 1].load()) : 0;
}

/// How many processes that live are members, and how many of those are paused.
std::pair<int, int> LivingAndPaused(const GroupHeader& header) {
  std::pair<int, int> found;
  const uint32_t members = Members(header);
  for (int slot = 0; slot < elastic::kMembersMax; ++slot) {
    const MemberSlot& member = header.members[slot];
    if ((members >> slot & 1) == 0) continue;
    if (!shm::ProcessAlive(member.pid.load(), member.start_time.load())) continue;
    ++found.first;
    found.second += member.paused.load() != 0 ? 1 : 0;
  }
  return found;
}

}  // namespace

bool JobOrders::active() const { return group_->header().finished.load() == 0; }

JobOrders::Sizes JobOrders::sizes() const {
  const GroupHeader& header = group_->header();
  return {.processes = static_cast<uint32_t>(std::popcount(Members(header))),
          .low = header.low.load(),
          .high = header.high.load()};
}

bool JobOrders::paused() const {
  const GroupHeader& header = group_->header();
  const auto [living, paused] = LivingAndPaused(header);
  return PauseWord::Wanted(header.pause.load()) && living > 0 && living == paused;
}

absl::Status JobOrders::Say(const Request& request) {
  if (request.kind != Kind::kResize) return group_->Pause(request.kind == Kind::kPause).status();
  if (PauseWord::Wanted(group_->header().pause.load())) {
    return absl::FailedPreconditionError(
        "it is paused, and changes its size between two steps only");
  }
  return group_->Resize(request.processes);
}

void JobOrders::Put(const Request& request, absl::Time now, Done done) {
  absl::Status said;
  {
    absl::MutexLock lock(&mu_);
    const bool known = std::any_of(pending_.begin(), pending_.end(), [&](const Pending& other) {
      return other.request.id == request.id;
    });
    if (known) return;
    const uint32_t before = sizes().processes;
    said = Say(request);
    if (said.ok()) pending_.push_back({request, now, before, std::move(done)});
  }
  if (!said.ok()) done(said, absl::ZeroDuration(), "");
}

bool JobOrders::Settled(const Pending& pending, absl::Time now, absl::Status& how) {
  const GroupHeader& header = group_->header();
  const Request& request = pending.request;
  const bool pausing = PauseWord::Wanted(header.pause.load());
  if (!active()) {
    how = absl::FailedPreconditionError("the training ended first");
    return true;
  }
  switch (request.kind) {
    case Kind::kPause:
      if (!pausing) how = absl::FailedPreconditionError("it was resumed meanwhile");
      if (!pausing || paused()) return true;
      break;
    case Kind::kResume:
      if (pausing) how = absl::FailedPreconditionError("it was paused again meanwhile");
      if (pausing || LivingAndPaused(header).second == 0) return true;
      break;
    case Kind::kResize:
      if (header.target.load() != request.processes) {
        how = absl::FailedPreconditionError(
            absl::StrCat("a later wish for ", header.target.load(), " processes came"));
        return true;
      }
      if (sizes().processes == request.processes) return true;
      break;
  }
  if (now <= request.deadline) return false;
  how = Undo(pending);
  return true;
}

absl::Status JobOrders::Undo(const Pending& pending) {
  const Sizes now = sizes();
  switch (pending.request.kind) {
    case Kind::kPause:
      group_->Pause(false).IgnoreError();  // fails where the training is over: nobody is paused
      return absl::DeadlineExceededError("the job came to no boundary in time, and goes on");
    case Kind::kResume:
      return absl::UnavailableError("not all of its processes go on yet; they do when they can");
    case Kind::kResize:
      group_->Resize(std::max(now.low, now.processes)).IgnoreError();
      break;
  }
  return absl::DeadlineExceededError(
      absl::StrCat("there are ", now.processes, " processes; it stays so"));
}

void JobOrders::Look(absl::Time now) {
  std::vector<std::pair<Pending, absl::Status>> over;
  {
    absl::MutexLock lock(&mu_);
    for (size_t i = 0; i < pending_.size();) {
      absl::Status how;
      if (!Settled(pending_[i], now, how)) {
        ++i;
        continue;
      }
      over.emplace_back(std::move(pending_[i]), std::move(how));
      pending_.erase(pending_.begin() + static_cast<ptrdiff_t>(i));
    }
  }
  for (auto& [pending, how] : over) {
    std::string text;
    if (how.ok() && pending.request.kind == Kind::kResize)
      text = absl::StrCat("before it had ", pending.from);
    pending.done(how, now - pending.since, text);
  }
}

}  // namespace tide::runtime

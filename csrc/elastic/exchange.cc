// Puts partial sums, votes and shards together.
#include "elastic/exchange.h"

#include <stdlib.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace tide::elastic {

void Exchange::Private::Allocate(size_t bytes) {
  const size_t rounded = (std::max<size_t>(bytes, 1) + 4095) / 4096 * 4096;
  auto* start = static_cast<std::byte*>(aligned_alloc(4096, rounded));
  data_ = {start, [](std::byte* memory) { free(memory); }};
  if (start != nullptr) std::memset(start, 0, rounded);
}

Exchange::Exchange(int workers, const std::vector<Parameter>& parameters, Bytes context_bytes)
    : workers_(workers),
      layout_(parameters),
      context_bytes_(context_bytes),
      sums_(workers, layout_),
      used_(parameters.size()) {
  plan_ = *MakePlan(workers, 1);  // the caller has checked the number of workers
  gradients_.Allocate(layout_.bytes());
}

absl::StatusOr<std::string> Exchange::Attach(UniqueFd fd, absl::string_view contract,
                                             WaitOptions options) {
  TIDE_ASSIGN_OR_RETURN(group_, Group::Attach(std::move(fd)));
  Geometry geometry;
  geometry.workers = static_cast<uint32_t>(workers_);
  geometry.parameters = static_cast<uint32_t>(layout_.parameters().size());
  geometry.partials = static_cast<uint32_t>(LivePartialsMax(workers_));
  geometry.flat_bytes = layout_.bytes();
  geometry.context_bytes = context_bytes_.size();
  TIDE_ASSIGN_OR_RETURN(std::string found, group_->Seal(geometry, contract, options.found));
  member_ = std::make_unique<Member>(*group_, MachineClock(), std::move(options));
  TIDE_RETURN_IF_ERROR(member_->Claim());
  return found;
}

absl::Status Exchange::Assign(int rank, int processes) {
  TIDE_ASSIGN_OR_RETURN(plan_, MakePlan(workers_, processes));
  assigned_rank_ = rank;
  return absl::OkStatus();
}

absl::Span<std::byte> Exchange::partials() {
  return {buffers_.data(), sums_.nodes().size() * layout_.bytes()};
}

absl::Status Exchange::SumPiece(absl::Span<const std::byte* const> sources, size_t first,
                                size_t last) {
  if (first > last || last > layout_.bytes() || first % kAlignment != 0 || last % kAlignment != 0) {
    return absl::InvalidArgumentError(absl::StrCat("bytes ", first, " to ", last, " of ",
                                                   layout_.bytes(), ": ends are multiples of ",
                                                   kAlignment));
  }
  std::vector<const std::byte*> whole;  // as if each had all bytes
  whole.reserve(sources.size());
  for (const std::byte* source : sources) whole.push_back(source - first);
  SumTree(plan_, layout_, whole, gradients_.data(), first, last, workers_);
  return absl::OkStatus();
}

void Exchange::MergeUsed(absl::Span<const std::byte> used) {
  for (size_t i = 0; i < used_.size(); ++i) used_[i] |= static_cast<uint8_t>(used[i]);
}

absl::Status Exchange::Replan() {
  const int processes = static_cast<int>(member_->slots().size());
  TIDE_ASSIGN_OR_RETURN(plan_, MakePlan(workers_, processes));
  return absl::OkStatus();
}

void Exchange::Prepare() {
  const GroupHeader& header = group_->header();
  if (header.steps.load() == 0) return;  // nobody trains yet who would have to wait
  const auto plan =
      MakePlan(workers_, static_cast<int>(std::min(header.target.load(), header.geometry.workers)));
  if (!plan.ok()) return;
  int buffers = 1;
  for (const Range carried : plan->carried)
    buffers = std::max(buffers, LivePartials(workers_, carried));
  group_->Prepare(member_->slot(), static_cast<size_t>(buffers));
}

absl::StatusOr<bool> Exchange::Stand() {
  if (!member_) {
    buffers_.Allocate(layout_.bytes() * static_cast<size_t>(LivePartials(workers_, carried())));
    contexts_.Allocate(2 * static_cast<size_t>(workers_) * context_bytes_.size());
    return true;
  }
  Prepare();
  TIDE_ASSIGN_OR_RETURN(const bool stays, member_->Stand());
  if (stays) TIDE_RETURN_IF_ERROR(Replan());
  return stays;
}

absl::StatusOr<bool> Exchange::Advance(uint64_t step) {
  if (!member_) return true;
  const uint32_t before = member_->generation();
  TIDE_ASSIGN_OR_RETURN(const bool stays, member_->Advance(step));
  if (stays && member_->generation() != before) TIDE_RETURN_IF_ERROR(Replan());
  return stays;
}

std::byte* Exchange::context(uint64_t step, int worker) {
  if (group_) return group_->context(step, worker);
  const size_t index = (step % 2) * static_cast<size_t>(workers_) + static_cast<size_t>(worker);
  return contexts_.data() + index * context_bytes_.size();
}

absl::Status Exchange::Begin(uint64_t step) {
  if (!member_) {
    sums_.Begin(buffers_.data(), reinterpret_cast<std::byte*>(used_.data()));
    return absl::OkStatus();
  }
  TIDE_RETURN_IF_ERROR(member_->AwaitReaders(step));
  sums_.Begin(group_->area(member_->slot()), group_->used(member_->slot()));
  return absl::OkStatus();
}

void Exchange::Fold(int worker, absl::Span<const void* const> gradients) {
  sums_.Fold(worker, gradients);
}

absl::StatusOr<Vote> Exchange::Finish(uint64_t step, bool last) {
  Clock& clock = MachineClock();
  const int64_t begin_ns = clock.MonotonicNanos();
  if (member_) {
    member_->Publish(step, last);
    TIDE_ASSIGN_OR_RETURN(const Vote vote, member_->Await(step));
    if (vote != Vote::kCommitted) return vote;
  }
  const int64_t voted_ns = clock.MonotonicNanos();
  TIDE_RETURN_IF_ERROR(Sum(step));
  times_.waited = absl::Nanoseconds(voted_ns - begin_ns);
  times_.summed = absl::Nanoseconds(clock.MonotonicNanos() - voted_ns);
  return Vote::kCommitted;
}

absl::Status Exchange::Sum(uint64_t step) {
  if (!member_) {
    const std::byte* root = buffers_.data();
    SumTree(plan_, layout_, {&root, 1}, gradients_.data(), 0, layout_.bytes(), workers_);
    return absl::OkStatus();
  }
  std::vector<const std::byte*> sources;
  for (const Source& source : plan_.sources) {
    const int slot = member_->slots()[static_cast<size_t>(source.rank)];
    sources.push_back(group_->area(slot) + static_cast<size_t>(source.index) * layout_.bytes());
  }
  for (size_t i = 0; i < used_.size(); ++i) {
    used_[i] = 0;
    for (const int slot : member_->slots()) used_[i] |= static_cast<uint8_t>(group_->used(slot)[i]);
  }
  if (plan_.sharded) {
    TIDE_RETURN_IF_ERROR(SumShards(step, sources));
  } else {
    SumTree(plan_, layout_, sources, gradients_.data(), 0, layout_.bytes(), workers_);
  }
  member_->Consume(step);
  return absl::OkStatus();
}

absl::Status Exchange::SumShards(uint64_t step, absl::Span<const std::byte* const> sources) {
  const int processes = static_cast<int>(member_->slots().size());
  const auto [own_begin, own_end] = Shard(layout_, rank(), processes);
  SumTree(plan_, layout_, sources, group_->shards(), own_begin, own_end, workers_);
  member_->ShardDone(step);
  for (int i = 0; i < processes; ++i) {
    const int other = (rank() + i) % processes;  // not all read the same shard at once
    const auto [begin, end] = Shard(layout_, other, processes);
    bool there = true;
    if (other != rank()) {
      TIDE_ASSIGN_OR_RETURN(there, member_->AwaitShard(other, step));
    }
    if (there) {
      std::memcpy(gradients_.data() + begin, group_->shards() + begin, end - begin);
    } else {
      // Its owner died after the vote: everything it would have added is still there.
      SumTree(plan_, layout_, sources, gradients_.data(), begin, end, workers_);
    }
  }
  return absl::OkStatus();
}

}  // namespace tide::elastic

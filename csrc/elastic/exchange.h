// A step of one process: where its partial sums go, the vote, and the sum that all agree on.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "elastic/member.h"
#include "elastic/reducer.h"

namespace tide::elastic {

/// What a step cost, for reports and benchmarks.
struct ExchangeTimes {
  absl::Duration waited;  // for the others' votes
  absl::Duration summed;  // adding up partial sums of all processes
};

/// One thread. Alone until Attach or Assign: then nothing is shared and every step commits.
///
///   exchange.Begin(step); for (worker in carried()) exchange.Fold(worker, gradients);
///   if (*exchange.Finish(step, last) == Vote::kCommitted) apply(exchange.gradients());
///   if (!*exchange.Advance(step + 1)) leave();
class Exchange {
 public:
  Exchange(int workers, const std::vector<Parameter>& parameters, Bytes context_bytes);

  /// Shares the file behind `fd`. Returns the contract of whoever came first. Errors: those of
  /// Group::Attach, Group::Seal and Member::Claim.
  absl::StatusOr<std::string> Attach(UniqueFd fd, absl::string_view contract, WaitOptions options);
  /// Carries the part of `rank` of `processes` that reach each other without a shared file: the
  /// caller moves the bytes. Before Stand, instead of Attach. Errors: those of MakePlan.
  absl::Status Assign(int rank, int processes);
  /// Waits for a place in a generation. False: the training is over. At once when alone.
  absl::StatusOr<bool> Stand();
  /// Enters the generation that begins at `step` if one does. False: this process is to leave.
  absl::StatusOr<bool> Advance(uint64_t step);

  /// Starts the sums of `step`; waits for the readers of the sums before.
  absl::Status Begin(uint64_t step);
  void Fold(int worker, absl::Span<const void* const> gradients);
  /// The same one by one while backward makes them: `Push`, then `FoldOne` once for each parameter,
  /// in any order.
  void Push(int worker) { sums_.Push(worker); }
  void FoldOne(size_t parameter, const void* gradient) { sums_.FoldOne(parameter, gradient); }
  /// Publishes, votes and, when committed, sums. `last`: no step follows.
  absl::StatusOr<Vote> Finish(uint64_t step, bool last);

  /// After Assign, between the last Fold or Push and SumPiece: this process's partial sums, one
  /// after the other.
  absl::Span<std::byte> partials();
  /// Sums bytes [first, last) of the flat gradients into gradients(). `sources` are all processes'
  /// partial sums in the order of plan().sources, each from byte `first` on. For pieces that do not
  /// overlap it may run on another thread, beside Push and FoldOne.
  /// Errors: InvalidArgument for bytes outside of the gradients or a cut in an element.
  absl::Status SumPiece(absl::Span<const std::byte* const> sources, size_t first, size_t last);
  /// Adds another process's marks of used parameters.
  void MergeUsed(absl::Span<const std::byte> used);

  int rank() const { return member_ ? member_->rank() : assigned_rank_; }
  Range carried() const { return plan_.carried[static_cast<size_t>(rank())]; }
  const Plan& plan() const { return plan_; }
  const FlatLayout& layout() const { return layout_; }
  /// The mean gradient, private to this process.
  std::byte* gradients() { return gradients_.data(); }
  const std::vector<uint8_t>& used() const { return used_; }
  std::byte* context(uint64_t step, int worker);
  Bytes context_bytes() const { return context_bytes_; }
  const ExchangeTimes& times() const { return times_; }

  Member* member() { return member_.get(); }  // null when alone
  Group* group() { return group_.get(); }     // null when alone

 private:
  /// Memory of our own from a page boundary on.
  class Private {
   public:
    void Allocate(size_t bytes);
    std::byte* data() const { return data_.get(); }

   private:
    std::unique_ptr<std::byte, void (*)(std::byte*)> data_{nullptr, nullptr};
  };
  void Prepare();
  absl::Status Replan();
  absl::Status Sum(uint64_t step);
  absl::Status SumShards(uint64_t step, absl::Span<const std::byte* const> sources);

  const int workers_;
  const FlatLayout layout_;
  const Bytes context_bytes_;
  int assigned_rank_ = 0;
  Plan plan_;
  PartialSums sums_;
  Private gradients_, buffers_, contexts_;  // the last two only while alone
  std::vector<uint8_t> used_;
  ExchangeTimes times_;
  std::unique_ptr<Group> group_;
  std::unique_ptr<Member> member_;  // after group_, which it borrows
};

}  // namespace tide::elastic

// Divides logical workers among processes and lists the additions that remain.
#include "elastic/plan.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "elastic/accumulator.h"

namespace tide::elastic {
namespace {

constexpr int kUnreachable = 1 << 20;

int NodeCount(int workers, Range range) { return static_cast<int>(Cover(workers, range).size()); }

/// Ranges of at most `load` workers with the fewest nodes; dynamic programming over (rank, end).
std::vector<Range> Divide(int workers, int processes, int load) {
  const size_t width = static_cast<size_t>(workers) + 1;
  std::vector<int> best((static_cast<size_t>(processes) + 1) * width, kUnreachable);
  std::vector<int> from(best.size(), 0);
  best[0] = 0;
  for (int rank = 0; rank < processes; ++rank) {
    const size_t row = static_cast<size_t>(rank) * width;
    for (int begin = 0; begin < workers; ++begin) {
      if (best[row + static_cast<size_t>(begin)] >= kUnreachable) continue;
      for (int end = begin + 1; end <= std::min(workers, begin + load); ++end) {
        const int cost = best[row + static_cast<size_t>(begin)] + NodeCount(workers, {begin, end});
        const size_t at = row + width + static_cast<size_t>(end);
        if (cost >= best[at]) continue;
        best[at] = cost;
        from[at] = begin;
      }
    }
  }
  std::vector<Range> ranges(static_cast<size_t>(processes));
  for (int rank = processes, end = workers; rank > 0; --rank) {
    const int begin = from[static_cast<size_t>(rank) * width + static_cast<size_t>(end)];
    ranges[static_cast<size_t>(rank) - 1] = {begin, end};
    end = begin;
  }
  return ranges;
}

/// Appends the additions that make `node`; returns the operand that holds it.
int Build(Range node, const std::map<Range, int>& held, int source_count,
          std::vector<Addition>& additions) {
  const auto found = held.find(node);
  if (found != held.end()) return found->second;
  const int split = SplitPoint(node);
  const int left = Build({node.begin, split}, held, source_count, additions);
  const int right = Build({split, node.end}, held, source_count, additions);
  additions.push_back({left, right});
  return source_count + static_cast<int>(additions.size()) - 1;
}

}  // namespace

absl::StatusOr<Plan> PlanFor(int workers, std::vector<Range> carried) {
  Plan plan;
  int next = 0;
  int partials_max = 0;
  std::map<Range, int> held;
  for (int rank = 0; rank < static_cast<int>(carried.size()); ++rank) {
    const Range range = carried[static_cast<size_t>(rank)];
    if (range.begin != next || range.size() < 1 || range.end > workers) {
      return absl::InvalidArgumentError(absl::StrCat("rank ", rank, " carries workers [",
                                                     range.begin, ", ", range.end,
                                                     "); the next one is ", next, " of ", workers));
    }
    next = range.end;
    int index = 0;
    for (const Range node : Cover(workers, range)) {
      held[node] = static_cast<int>(plan.sources.size());
      plan.sources.push_back({node, rank, index++});
    }
    partials_max = std::max(partials_max, index);
  }
  if (next != workers || workers < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("workers [", next, ", ", workers, ") are carried by nobody"));
  }
  Build({0, workers}, held, static_cast<int>(plan.sources.size()), plan.additions);
  // Two sums: reading both and writing the result is three passes over memory, a shard each with
  // a copy of the other's is three and a half, and needs a second round of waiting.
  plan.sharded = plan.sources.size() > 2;
  plan.byte_factor = (partials_max + 1) / 2.0;
  plan.carried = std::move(carried);
  return plan;
}

absl::StatusOr<Plan> MakePlan(int workers, int processes) {
  if (workers < 1 || workers > kWorkersMax || processes < 1 || processes > workers ||
      processes > kProcessesMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        processes, " processes for ", workers, " logical workers; there are 1 to ", kWorkersMax,
        " workers and 1 to ", std::min(workers, kProcessesMax), " processes for them"));
  }
  const int load = (workers + processes - 1) / processes;
  TIDE_ASSIGN_OR_RETURN(Plan plan, PlanFor(workers, Divide(workers, processes, load)));
  plan.reason = absl::StrCat("at most ", load, " workers a process, ", plan.sources.size(),
                             " partial sums in all, byte factor ", plan.byte_factor);
  return plan;
}

int LivePartials(int workers, Range carried) {
  Accumulator accumulator(workers);
  int most = 0;
  for (int worker = carried.begin; worker < carried.end; ++worker) {
    accumulator.Push(worker);
    most = std::max(most, static_cast<int>(accumulator.nodes().size()));
  }
  return most;
}

int LivePartialsMax(int workers) {
  int most = 1;
  for (int processes = 1; processes <= std::min(workers, kProcessesMax); ++processes) {
    const auto plan = MakePlan(workers, processes);
    if (!plan.ok()) continue;
    for (const Range range : plan->carried) most = std::max(most, LivePartials(workers, range));
  }
  return most;
}

}  // namespace tide::elastic

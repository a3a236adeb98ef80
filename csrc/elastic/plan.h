// Who carries which logical workers and what travels between processes: pure functions.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "elastic/tree.h"

namespace tide::elastic {

/// Most logical workers of a job, and most processes at once.
inline constexpr int kWorkersMax = 256;
inline constexpr int kProcessesMax = 24;

/// One addition of tree nodes; operands are sources (as numbered in Plan::sources) or results of
/// earlier additions (sources.size() + index).
struct Addition {
  int left = 0;
  int right = 0;
  auto operator<=>(const Addition&) const = default;
};

/// What `rank` contributes as its `index`-th partial sum.
struct Source {
  Range node;
  int rank = 0;
  int index = 0;
};

struct Plan {
  std::vector<Range> carried;       // by rank; contiguous, in order, each of at least one worker
  std::vector<Source> sources;      // partial sums of all ranks, in the order of the tree
  std::vector<Addition> additions;  // in an order that can be executed; the last one is the root
  bool sharded = false;             // ranks sum a part each; else each sums all by itself
  double byte_factor = 1;           // partial sums a process exports, over the one of plain DDP
  std::string reason;               // why these ranges
};

/// The ranges of `processes` processes: loads differ as little as possible at the top, and among
/// those divisions the one with the fewest tree nodes. Errors: InvalidArgument unless 1 <=
/// processes <= workers.
absl::StatusOr<Plan> MakePlan(int workers, int processes);

/// The plan of given ranges. Errors: InvalidArgument unless they cover all workers in order.
absl::StatusOr<Plan> PlanFor(int workers, std::vector<Range> carried);

/// Partial sums that are alive at once while a process adds up the workers of `carried`.
int LivePartials(int workers, Range carried);

/// The most of them that any process has under MakePlan, for any number of processes.
int LivePartialsMax(int workers);

}  // namespace tide::elastic

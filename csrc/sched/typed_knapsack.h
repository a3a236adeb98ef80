// The multiple-choice knapsack with a limit for each type of GPU.
#pragma once

#include <vector>

#include "absl/types/span.h"

namespace tide::sched {

struct TypedChoice {
  int type = 0;
  int weight = 0;  // GPUs of the type, from 1
  double value = 0;
};
using TypedItem = std::vector<TypedChoice>;

struct TypedLimits {
  int64_t cells_max = 1 << 22;  // items times states of the table; beyond it is solved by branching
  int nodes_max = 40;           // linear programs of one solution by branching
  double gap = 1e-4;            // of the best value, by which branching may miss it
};

/// Which choice of each item is taken; -1: none. Exact by a table of what is left of each type when
/// that is small. Else branch and bound over linear programs (Clp): as good as the best within
/// `gap`, unless `nodes_max` ends it; without Clp greedily, by value a GPU.
std::vector<int> SolveTyped(const std::vector<TypedItem>& items, absl::Span<const int> gpus,
                            const TypedLimits& limits = {});

}  // namespace tide::sched

// Linear programs, solved by Clp, which is opened at run time.
#pragma once

#include <vector>

#include "absl/status/statusor.h"

namespace tide::sched {

/// max objective * x with low <= rows * x <= high, 0 <= x <= bounds.
struct LinearProgram {
  struct Row {
    std::vector<std::pair<int, double>> terms;  // (column, factor); a column at most once
    double low = 0, high = 0;                   // infinite: no limit on that side
  };
  std::vector<double> objective;  // of each column
  std::vector<double> bounds;     // of each column
  std::vector<Row> rows;
};

struct LinearSolution {
  std::vector<double> x;
  std::vector<double> prices;  // of each row: what one more of it changes the objective by
  double value = 0;
};

/// OK when Clp can be opened. Errors: FailedPrecondition with what to install.
absl::Status CheckLinearSolver();

/// Errors: NotFound when no x fulfils the rows, OutOfRange when the objective has no limit, and
/// those of CheckLinearSolver.
absl::StatusOr<LinearSolution> Solve(const LinearProgram& program);

}  // namespace tide::sched

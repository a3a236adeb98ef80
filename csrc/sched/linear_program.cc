// The dozen functions of Clp's C interface that a solve needs.
#include "sched/linear_program.h"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "base/shared_library.h"
#include "base/status.h"

namespace tide::sched {
namespace {

constexpr const char* kLibrary = "libClp.so.1";
constexpr double kMaximise = -1;
constexpr int kOptimal = 0, kInfeasible = 1;

// The functions by their names in Clp_C_Interface.h.
struct Clp {
  void* (*new_model)();
  void (*delete_model)(void* model);
  void (*set_log_level)(void* model, int level);
  void (*load_problem)(void* model, int columns, int rows, const int* starts, const int* indices,
                       const double* values, const double* column_low, const double* column_high,
                       const double* objective, const double* row_low, const double* row_high);
  void (*set_direction)(void* model, double direction);
  int (*solve)(void* model);
  int (*status)(void* model);
  double* (*columns)(void* model);
  double* (*prices)(void* model);
  double (*value)(void* model);
};

absl::StatusOr<Clp> OpenClp() {
  auto library = SharedLibrary::Open(kLibrary);
  if (!library.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("this policy solves linear programs with Clp: ", library.status().message(),
                     "; install it (Debian: apt-get install coinor-libclp1)"));
  }
  Clp clp{};
  bool found = true;
  const auto find = [&](const char* name, auto& function) {
    void* address = library->Find(name);
    found &= address != nullptr;
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(address);
  };
  find("Clp_newModel", clp.new_model);
  find("Clp_deleteModel", clp.delete_model);
  find("Clp_setLogLevel", clp.set_log_level);
  find("Clp_loadProblem", clp.load_problem);
  find("Clp_setOptimizationDirection", clp.set_direction);
  find("Clp_initialDualSolve", clp.solve);
  find("Clp_status", clp.status);
  find("Clp_primalColumnSolution", clp.columns);
  find("Clp_dualRowSolution", clp.prices);
  find("Clp_objectiveValue", clp.value);
  if (found) return clp;
  return absl::FailedPreconditionError(
      absl::StrCat(kLibrary, " lacks a function of its C interface; install coinor-libclp1 1.17"));
}

// Opened once; the outcome stays.
const absl::StatusOr<Clp>& TheClp() {
  static const absl::StatusOr<Clp>& clp = *new absl::StatusOr<Clp>(OpenClp());
  return clp;
}

void Load(const Clp& clp, void* model, const LinearProgram& program) {
  const size_t columns = program.objective.size();
  std::vector<int> starts(columns + 1, 0);
  for (const LinearProgram::Row& row : program.rows) {
    for (const auto& [column, factor] : row.terms) ++starts[column + 1];
  }
  for (size_t column = 0; column < columns; ++column) starts[column + 1] += starts[column];
  std::vector<int> next(starts.begin(), starts.end() - 1), indices(starts.back());
  std::vector<double> values(starts.back()), low, high, zero(columns, 0), bounds;
  const auto finite = [](double value) {  // Clp's infinity is the largest number
    return std::clamp(value, std::numeric_limits<double>::lowest(),
                      std::numeric_limits<double>::max());
  };
  for (size_t i = 0; i < program.rows.size(); ++i) {
    for (const auto& [column, factor] : program.rows[i].terms) {
      indices[next[column]] = static_cast<int>(i);
      values[next[column]++] = factor;
    }
    low.push_back(finite(program.rows[i].low));
    high.push_back(finite(program.rows[i].high));
  }
  for (const double bound : program.bounds) bounds.push_back(finite(bound));
  clp.load_problem(model, static_cast<int>(columns), static_cast<int>(program.rows.size()),
                   starts.data(), indices.data(), values.data(), zero.data(), bounds.data(),
                   program.objective.data(), low.data(), high.data());
}

}  // namespace

absl::Status CheckLinearSolver() { return TheClp().status(); }

absl::StatusOr<LinearSolution> Solve(const LinearProgram& program) {
  TIDE_RETURN_IF_ERROR(CheckLinearSolver());
  const Clp& clp = *TheClp();
  void* model = clp.new_model();
  clp.set_log_level(model, 0);
  clp.set_direction(model, kMaximise);
  Load(clp, model, program);
  clp.solve(model);
  const int status = clp.status(model);
  LinearSolution solution;
  if (status == kOptimal) {
    const double* x = clp.columns(model);
    const double* prices = clp.prices(model);
    solution.x.assign(x, x + program.objective.size());
    solution.prices.assign(prices, prices + program.rows.size());
    solution.value = clp.value(model);
  }
  clp.delete_model(model);
  if (status == kOptimal) return solution;
  if (status == kInfeasible) return absl::NotFoundError("no x fulfils all rows");
  return absl::OutOfRangeError(absl::StrCat("Clp ended with status ", status));
}

}  // namespace tide::sched

// Column unit * types + type is a share; the last column, where there is one, is what is to be
// raised.
#include "sched/gavel_shares.h"

#include <algorithm>
#include <limits>

#include "base/status.h"
#include "sched/linear_program.h"

namespace tide::sched {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();
constexpr double kTight = 1e-7;  // a price above: nobody in the row can be better off

int Types(const GavelProblem& problem) { return static_cast<int>(problem.gpus.size()); }

// The rows that every allocation keeps: a job is at one place at a time, a type has so many GPUs.
LinearProgram Base(const GavelProblem& problem) {
  const int types = Types(problem);
  LinearProgram program;
  program.objective.assign(problem.units.size() * types, 0);
  program.bounds.assign(problem.units.size() * types, 1);
  std::vector<LinearProgram::Row> jobs(problem.jobs.size(), {.low = -kInfinite, .high = 1});
  std::vector<LinearProgram::Row> gpus(types, {.low = -kInfinite});
  for (int type = 0; type < types; ++type) gpus[type].high = problem.gpus[type];
  for (size_t unit = 0; unit < problem.units.size(); ++unit) {
    for (int type = 0; type < types; ++type) {
      const int column = static_cast<int>(unit) * types + type;
      const std::vector<int>& members = problem.units[unit].jobs;
      for (const int job : members) jobs[job].terms.emplace_back(column, 1);
      gpus[type].terms.emplace_back(column, problem.jobs[members[0]].gpus);
    }
  }
  program.rows = std::move(jobs);
  program.rows.insert(program.rows.end(), gpus.begin(), gpus.end());
  return program;
}

// factor * throughput of each job, as a row.
std::vector<LinearProgram::Row> Throughputs(const GavelProblem& problem,
                                            const std::vector<double>& factors) {
  const int types = Types(problem);
  std::vector<LinearProgram::Row> rows(problem.jobs.size(), {.low = 0, .high = kInfinite});
  for (size_t unit = 0; unit < problem.units.size(); ++unit) {
    const GavelUnit& who = problem.units[unit];
    for (size_t member = 0; member < who.jobs.size(); ++member) {
      for (int type = 0; type < types; ++type) {
        const double speed = who.speed[member][type] * factors[who.jobs[member]];
        if (speed <= 0) continue;
        rows[who.jobs[member]].terms.emplace_back(static_cast<int>(unit) * types + type, speed);
      }
    }
  }
  return rows;
}

GavelShares SharesOf(const GavelProblem& problem, const LinearSolution& solution) {
  const int types = Types(problem);
  GavelShares shares(problem.units.size(), std::vector<double>(types));
  for (size_t i = 0; i < problem.units.size() * types; ++i) {
    shares[i / types][i % types] = std::clamp(solution.x[i], 0.0, 1.0);
  }
  return shares;
}

// max min factor * throughput over the jobs that are not held at a level; those keep theirs.
struct WaterLevel {
  GavelShares shares;
  double value = 0;
  std::vector<bool> tight;  // by job
};
absl::StatusOr<WaterLevel> RaiseLevel(const GavelProblem& problem,
                                      const std::vector<double>& factors,
                                      const std::vector<double>& held) {
  LinearProgram program = Base(problem);
  const size_t first = program.rows.size();
  const int level = static_cast<int>(program.objective.size());
  program.objective.push_back(1);
  program.bounds.push_back(kInfinite);
  for (LinearProgram::Row& row : Throughputs(problem, factors)) {
    const size_t job = program.rows.size() - first;
    if (held[job] < 0) {
      row.terms.emplace_back(level, -1);
    } else {
      row.low = held[job] * (1 - 1e-9);
    }
    program.rows.push_back(std::move(row));
  }
  TIDE_ASSIGN_OR_RETURN(const LinearSolution solution, Solve(program));
  WaterLevel result{.shares = SharesOf(problem, solution), .value = solution.value};
  for (size_t job = 0; job < problem.jobs.size(); ++job) {
    result.tight.push_back(std::abs(solution.prices[first + job]) > kTight);
  }
  return result;
}

// Throughput with GPUs of all types in proportion, the whole time.
double ProportionalSpeed(const GavelProblem& problem, int job) {
  double sum = 0, gpus = 0;
  for (int type = 0; type < Types(problem); ++type) {
    sum += problem.jobs[job].speed[type] * problem.gpus[type];
    gpus += problem.gpus[type];
  }
  return gpus > 0 ? sum / gpus : 0;
}

std::vector<double> FairFactors(const GavelProblem& problem) {
  std::vector<double> factors;
  for (size_t job = 0; job < problem.jobs.size(); ++job) {
    const double speed = ProportionalSpeed(problem, static_cast<int>(job));
    const GavelJob& who = problem.jobs[job];
    factors.push_back(speed > 0 ? who.gpus / (who.weight * speed) : 0);
  }
  return factors;
}

// A job that runs nowhere would hold everybody's level at nothing.
std::vector<double> NobodyHeld(const GavelProblem& problem, const std::vector<double>& factors) {
  std::vector<double> held(problem.jobs.size(), -1);
  for (size_t job = 0; job < held.size(); ++job) {
    if (factors[job] <= 0) held[job] = 0;
  }
  return held;
}

absl::StatusOr<GavelShares> MostOf(const GavelProblem& problem, bool by_cost) {
  LinearProgram program = Base(problem);
  const int types = Types(problem);
  for (size_t unit = 0; unit < problem.units.size(); ++unit) {
    for (const std::vector<double>& speed : problem.units[unit].speed) {
      for (int type = 0; type < types; ++type) {
        const double cost = by_cost ? std::max(1e-9, problem.cost[type]) : 1;
        program.objective[unit * types + type] += speed[type] / cost;
      }
    }
  }
  TIDE_ASSIGN_OR_RETURN(const LinearSolution solution, Solve(program));
  return SharesOf(problem, solution);
}

}  // namespace

absl::StatusOr<GavelShares> GavelMaxMin(const GavelProblem& problem) {
  const std::vector<double> factors = FairFactors(problem);
  TIDE_ASSIGN_OR_RETURN(WaterLevel level,
                        RaiseLevel(problem, factors, NobodyHeld(problem, factors)));
  return std::move(level.shares);
}

absl::StatusOr<GavelShares> GavelWaterFilling(const GavelProblem& problem) {
  const std::vector<double> factors = FairFactors(problem);
  std::vector<double> held = NobodyHeld(problem, factors);
  for (;;) {
    TIDE_ASSIGN_OR_RETURN(WaterLevel level, RaiseLevel(problem, factors, held));
    bool left = false, froze = false;
    for (size_t job = 0; job < held.size(); ++job) {
      if (held[job] >= 0) continue;
      if (level.tight[job]) {
        held[job] = level.value;
        froze = true;
      } else {
        left = true;
      }
    }
    if (!left || !froze) return std::move(level.shares);
  }
}

absl::StatusOr<GavelShares> GavelMakespan(const GavelProblem& problem) {
  std::vector<double> factors;
  for (const GavelJob& job : problem.jobs) {
    const bool runs = *std::max_element(job.speed.begin(), job.speed.end()) > 0;
    factors.push_back(runs && job.remaining_s > 0 ? 1 / job.remaining_s : 0);
  }
  TIDE_ASSIGN_OR_RETURN(WaterLevel level,
                        RaiseLevel(problem, factors, NobodyHeld(problem, factors)));
  return std::move(level.shares);
}

absl::StatusOr<GavelShares> GavelFinishTime(const GavelProblem& problem) {
  // For a given ratio each job needs a throughput; whether all can have it is the level of one
  // program.
  const auto attempt = [&](double rho) -> absl::StatusOr<WaterLevel> {
    std::vector<double> factors;
    for (size_t i = 0; i < problem.jobs.size(); ++i) {
      const GavelJob& job = problem.jobs[i];
      const double speed = GavelIsolatedSpeed(problem, static_cast<int>(i));
      const double alone_s = job.isolated_s + (speed > 0 ? job.remaining_s / speed : 0);
      const double left_s = rho * alone_s - job.elapsed_s;
      const bool needs = speed > 0 && job.remaining_s > 0;
      // Who has no time left needs more than there is.
      factors.push_back(needs ? std::max(left_s, 1e-6) / job.remaining_s : 0);
    }
    return RaiseLevel(problem, factors, NobodyHeld(problem, factors));
  };
  double low = 0, high = 1;
  TIDE_ASSIGN_OR_RETURN(WaterLevel best, attempt(high));
  while (best.value < 1 && high < 1e9) {
    low = high;
    high *= 2;
    TIDE_ASSIGN_OR_RETURN(best, attempt(high));
  }
  while (high - low > 1e-4 * high) {
    const double middle = (low + high) / 2;
    TIDE_ASSIGN_OR_RETURN(WaterLevel level, attempt(middle));
    if (level.value < 1) {
      low = middle;
    } else {
      high = middle;
      best = std::move(level);
    }
  }
  return std::move(best.shares);
}

absl::StatusOr<GavelShares> GavelThroughput(const GavelProblem& problem) {
  return MostOf(problem, false);
}

absl::StatusOr<GavelShares> GavelCost(const GavelProblem& problem) { return MostOf(problem, true); }

double GavelSpeed(const GavelProblem& problem, const GavelShares& shares, int job) {
  double speed = 0;
  for (size_t unit = 0; unit < problem.units.size(); ++unit) {
    const GavelUnit& who = problem.units[unit];
    for (size_t member = 0; member < who.jobs.size(); ++member) {
      if (who.jobs[member] != job) continue;
      for (int type = 0; type < Types(problem); ++type) {
        speed += who.speed[member][type] * shares[unit][type];
      }
    }
  }
  return speed;
}

double GavelIsolatedSpeed(const GavelProblem& problem, int job) {
  double sum = 0, time = 0;
  const double parts = static_cast<double>(problem.jobs.size()) * problem.jobs[job].gpus;
  for (int type = 0; type < Types(problem); ++type) {
    const double share = problem.gpus[type] / parts;
    sum += share * problem.jobs[job].speed[type];
    time += share;
  }
  return sum / std::max(1.0, time);
}

}  // namespace tide::sched

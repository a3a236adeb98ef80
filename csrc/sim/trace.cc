// One pass over the text; each row becomes a job view, names become numbers.
#include "sim/trace.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/random.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "sim/trace_profiles.h"

namespace tide::sim {
namespace {

constexpr int64_t kFileBytesMax = int64_t{1} << 30;
constexpr int kGpusMax = 1 << 20;
constexpr double kSecondsMax = 1e12;  // beyond, whole seconds and their sums are no longer exact

using sched::JobTier;
using sched::JobView;

// Where each column is; -1: not there.
struct Columns {
  int id = -1, submit = -1, gpus = -1, duration = -1;
  int user = -1, model = -1, deadline = -1, tier = -1;
  int least = -1, most = -1, weight = -1;
};

absl::StatusOr<Columns> FindColumns(absl::string_view header) {
  Columns columns;
  const std::pair<absl::string_view, int*> known[] = {{"job_id", &columns.id},
                                                      {"submit_s", &columns.submit},
                                                      {"gpus", &columns.gpus},
                                                      {"user", &columns.user},
                                                      {"duration_s", &columns.duration},
                                                      {"vc", &columns.user},
                                                      {"model", &columns.model},
                                                      {"deadline_s", &columns.deadline},
                                                      {"tier", &columns.tier},
                                                      {"gpus_min", &columns.least},
                                                      {"gpus_max", &columns.most},
                                                      {"weight", &columns.weight},
                                                      {"priority_weight", &columns.weight}};
  int index = 0;
  for (const absl::string_view cell : absl::StrSplit(header, ',')) {
    for (const auto& [name, place] : known) {
      if (absl::StripAsciiWhitespace(cell) == name && *place < 0) *place = index;
    }
    ++index;
  }
  for (const auto& [name, place] : {known[0], known[1], known[2], known[4]}) {
    if (*place < 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the trace has no column \"", name,
          "\"; a trace needs job_id,submit_s,gpus,duration_s (seconds) in its first line"));
    }
  }
  return columns;
}

absl::Status CellError(int line, absl::string_view column, absl::string_view cell,
                       absl::string_view wanted) {
  return absl::InvalidArgumentError(absl::StrCat("line ", line, " of the trace: ", column, " is \"",
                                                 cell.substr(0, 40), "\"; give ", wanted));
}

class RowReader {
 public:
  RowReader(const Columns& columns, absl::string_view header)
      : columns_(columns), profiles_(header) {}

  absl::Status Read(int line, absl::string_view text, Trace& trace) {
    cells_ = absl::StrSplit(text, ',');
    JobView job;
    TIDE_RETURN_IF_ERROR(ReadSeconds(line, "submit_s", columns_.submit, job.submit_s));
    TIDE_RETURN_IF_ERROR(ReadSeconds(line, "duration_s", columns_.duration, job.duration_s));
    const absl::string_view gpus = Cell(columns_.gpus);
    if (!absl::SimpleAtoi(gpus, &job.gpus) || job.gpus < 1 || job.gpus > kGpusMax) {
      return CellError(line, "gpus", gpus, "a number of GPUs from 1 upwards");
    }
    if (const absl::string_view cell = Cell(columns_.deadline); !cell.empty()) {
      TIDE_RETURN_IF_ERROR(ReadSeconds(line, "deadline_s", columns_.deadline, job.deadline_s));
      if (job.deadline_s == 0) job.deadline_s = sched::kNever;
    }
    TIDE_RETURN_IF_ERROR(ReadTier(line, job));
    TIDE_RETURN_IF_ERROR(ReadRange(line, job));
    TIDE_ASSIGN_OR_RETURN(job.profile, profiles_.Read(line, cells_, trace.profiles));
    const std::string user(Cell(columns_.user));
    job.user = Number(users_, user);
    job.group = Number(groups_, absl::StrCat(user, "\n", Cell(columns_.model), "\n", gpus));
    trace.job_ids.emplace_back(Cell(columns_.id));
    trace.jobs.push_back(job);
    return absl::OkStatus();
  }

 private:
  absl::string_view Cell(int column) const {
    if (column < 0 || column >= static_cast<int>(cells_.size())) return "";
    return absl::StripAsciiWhitespace(cells_[column]);
  }

  absl::Status ReadSeconds(int line, absl::string_view name, int column, double& seconds) const {
    if (!absl::SimpleAtod(Cell(column), &seconds) || !(seconds >= 0 && seconds <= kSecondsMax)) {
      return CellError(line, name, Cell(column), "seconds from 0 to 1e12");
    }
    return absl::OkStatus();
  }

  absl::Status ReadTier(int line, JobView& job) const {
    const absl::string_view cell = Cell(columns_.tier);
    if (cell.empty() || cell == "standard") return absl::OkStatus();
    if (cell == "guaranteed") {
      job.tier = JobTier::kGuaranteed;
    } else if (cell == "opportunistic") {
      job.tier = JobTier::kOpportunistic;
    } else {
      return CellError(line, "tier", cell, "guaranteed, standard or opportunistic");
    }
    return absl::OkStatus();
  }

  absl::Status ReadRange(int line, JobView& job) const {
    const absl::string_view least = Cell(columns_.least), most = Cell(columns_.most);
    if (!least.empty() || !most.empty()) {
      job.gpus_min = job.gpus_max = job.gpus;
      if (!least.empty() && (!absl::SimpleAtoi(least, &job.gpus_min) || job.gpus_min < 1)) {
        return CellError(line, "gpus_min", least, "a number of GPUs from 1 upwards");
      }
      if (!most.empty() && (!absl::SimpleAtoi(most, &job.gpus_max) || job.gpus_max > kGpusMax ||
                            job.gpus_max < job.gpus_min)) {
        return CellError(line, "gpus_max", most, "a number of GPUs, gpus_min or more");
      }
    }
    const absl::string_view weight = Cell(columns_.weight);
    if (weight.empty()) return absl::OkStatus();
    if (absl::SimpleAtod(weight, &job.weight) && job.weight > 0 && job.weight < kSecondsMax) {
      return absl::OkStatus();
    }
    return CellError(line, "weight", weight, "a number above 0");
  }

  static int Number(absl::flat_hash_map<std::string, int>& numbers, const std::string& name) {
    return numbers.try_emplace(name, static_cast<int>(numbers.size())).first->second;
  }

  const Columns columns_;
  std::vector<absl::string_view> cells_;
  absl::flat_hash_map<std::string, int> users_, groups_;
  ProfileReader profiles_;
};

void SortBySubmission(Trace& trace) {
  const auto earlier = [](const JobView& a, const JobView& b) { return a.submit_s < b.submit_s; };
  if (std::is_sorted(trace.jobs.begin(), trace.jobs.end(), earlier)) return;
  std::vector<size_t> order(trace.jobs.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return earlier(trace.jobs[a], trace.jobs[b]); });
  Trace sorted{.name = trace.name, .profiles = std::move(trace.profiles)};
  for (const size_t i : order) {
    sorted.jobs.push_back(trace.jobs[i]);
    sorted.job_ids.push_back(std::move(trace.job_ids[i]));
  }
  trace = std::move(sorted);
}

}  // namespace

absl::StatusOr<Trace> ParseTrace(absl::string_view text, absl::string_view name) {
  Trace trace;
  trace.name = std::string(name);
  std::optional<RowReader> reader;
  int line = 0;
  for (const absl::string_view row : absl::StrSplit(text, '\n')) {
    ++line;
    if (absl::StripAsciiWhitespace(row).empty()) continue;
    if (!reader) {
      TIDE_ASSIGN_OR_RETURN(const Columns columns, FindColumns(row));
      reader.emplace(columns, row);
      continue;
    }
    TIDE_RETURN_IF_ERROR(reader->Read(line, row, trace));
  }
  if (trace.jobs.empty()) {
    return absl::InvalidArgumentError(
        "the trace has no jobs; a trace is CSV with the header job_id,submit_s,gpus,duration_s");
  }
  SortBySubmission(trace);
  return trace;
}

absl::StatusOr<Trace> ReadTrace(const std::string& path) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status;
  if (!file || fstat(file.get(), &status) != 0) {
    return ErrnoStatus(absl::StrCat("cannot open the trace ", path));
  }
  if (status.st_size > kFileBytesMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, " has ", status.st_size, " bytes; a trace has at most ", kFileBytesMax));
  }
  std::string text(static_cast<size_t>(status.st_size), '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = read(file.get(), text.data() + done, text.size() - done);
    if (got < 0) return ErrnoStatus(absl::StrCat("cannot read the trace ", path));
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  text.resize(done);
  absl::string_view name = path;
  if (const size_t slash = name.rfind('/'); slash != name.npos) name.remove_prefix(slash + 1);
  absl::ConsumeSuffix(&name, ".csv");
  return ParseTrace(text, name);
}

absl::Status AssumeElastic(Trace& trace, double serial_share, int factor) {
  if (!(serial_share >= 0 && serial_share <= 1) || factor < 1 || factor > 1024) {
    return absl::InvalidArgumentError(
        absl::StrCat("jobs of which ", serial_share, " is serial on up to ", factor,
                     " times their gangs; give a share from 0 to 1 and a factor from 1 to 1024"));
  }
  absl::flat_hash_map<std::pair<int, int>, int> made;  // profile by (profile before, most GPUs)
  for (JobView& job : trace.jobs) {
    if (job.elastic() || job.gpus > kGpusMax / factor) continue;
    job.gpus_min = 1;
    job.gpus_max = job.gpus * factor;
    const auto [found, is_new] =
        made.try_emplace({job.profile, job.gpus_max}, static_cast<int>(trace.profiles.of.size()));
    if (is_new) {
      sched::JobProfile profile;
      if (job.profile >= 0) profile = trace.profiles.of[job.profile];
      profile.speed.clear();
      for (int k = 1; k <= job.gpus_max && !profile.batch.known(); ++k) {
        profile.speed.push_back(k / (1 + serial_share * (k - 1)));
      }
      trace.profiles.of.push_back(std::move(profile));
    }
    job.profile = found->second;
  }
  return absl::OkStatus();
}

Trace DrawTrace(int jobs, int gpus, double load, uint64_t seed) {
  constexpr int kGangs[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 32};
  Random random(seed);
  Trace trace;
  trace.name = absl::StrCat("drawn", jobs);
  double submit_s = 0, gpu_seconds = 0;
  for (int i = 0; i < jobs; ++i) {
    JobView job;
    job.gpus = std::min(kGangs[random.Below(std::size(kGangs))], gpus);
    job.duration_s = std::floor(std::pow(10, 1 + 4 * random.Unit()));
    job.user = static_cast<int>(random.Below(20));
    job.group = job.user;
    job.submit_s = -std::log(1 - random.Unit());  // scaled below
    gpu_seconds += job.gpus * job.duration_s;
    trace.jobs.push_back(job);
    trace.job_ids.push_back(absl::StrCat(i));
  }
  const double gap_s = gpu_seconds / (gpus * load * jobs);
  for (JobView& job : trace.jobs) {
    submit_s += job.submit_s * gap_s;
    job.submit_s = std::floor(submit_s);
  }
  return trace;
}

}  // namespace tide::sim

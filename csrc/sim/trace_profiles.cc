// Rows that read alike are one profile: the text of their cells is the key.
#include "sim/trace_profiles.h"

#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/status.h"

namespace tide::sim {
namespace {

constexpr absl::string_view kNames[] = {
    "speedup",      "type_speed",  "stage_io_ms", "stage_cpu_ms", "stage_gpu_ms",
    "stage_net_ms", "busy",        "memory_gib",  "scratch_gib",  "memory_speed",
    "batch_size",   "batch_max",   "noise_scale", "step_ms",      "example_ms",
    "sync_ms",      "sync_gpu_ms", "overlap",     "cpu_speed",    "host_speed"};
constexpr int kSpeedup = 0, kTypeSpeed = 1, kFirstStage = 2, kBusy = 6, kMemory = 7, kScratch = 8,
              kMemorySpeed = 9, kFirstOfBatch = 10, kExample = 14, kCpuSpeed = 18, kHostSpeed = 19;
constexpr int kCurveGpusMax = 1 << 16;

absl::Status CellError(int line, int column, absl::string_view cell, absl::string_view wanted) {
  return absl::InvalidArgumentError(absl::StrCat("line ", line, " of the trace: ", kNames[column],
                                                 " is \"", cell.substr(0, 40), "\"; give ",
                                                 wanted));
}

bool ReadNumber(absl::string_view text, double& value) {
  return absl::SimpleAtod(absl::StripAsciiWhitespace(text), &value) && std::isfinite(value) &&
         value >= 0;
}

// "1:1;2:1.9" as a value for each number of GPUs; straight lines between, from none at 0.
bool ReadCurve(absl::string_view cell, std::vector<double>& speed) {
  int gpus_before = 0;
  double before = 0;
  for (const absl::string_view point : absl::StrSplit(cell, ';')) {
    const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(point, ':');
    int gpus = 0;
    double value = 0;
    if (!absl::SimpleAtoi(parts.first, &gpus) || gpus <= gpus_before || gpus > kCurveGpusMax ||
        !ReadNumber(parts.second, value) || value <= 0) {
      return false;
    }
    for (int k = gpus_before + 1; k <= gpus; ++k) {
      speed.push_back(before + (value - before) * (k - gpus_before) / (gpus - gpus_before));
    }
    gpus_before = gpus;
    before = value;
  }
  return true;
}

bool ReadPoints(absl::string_view cell, sched::SpeedCurve& curve) {
  for (const absl::string_view point : absl::StrSplit(cell, ';')) {
    const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(point, ':');
    double at = 0, speed = 0;
    if (!ReadNumber(parts.first, at) || !ReadNumber(parts.second, speed) || speed <= 0 ||
        at <= (curve.empty() ? 0 : curve.back().first) || curve.size() == 100) {
      return false;
    }
    curve.emplace_back(at, speed);
  }
  return true;
}

bool ReadList(absl::string_view cell, size_t most, std::vector<double>& values) {
  for (const absl::string_view part : absl::StrSplit(cell, ';')) {
    double value = 0;
    if (!ReadNumber(part, value) || values.size() == most) return false;
    values.push_back(value);
  }
  return true;
}

// The columns of a batch in their order.
absl::Status ReadBatch(int line, int column, absl::string_view cell, sched::BatchModel& batch) {
  double* const values[] = {&batch.own,       &batch.most,   &batch.noise,      &batch.step_s,
                            &batch.example_s, &batch.sync_s, &batch.sync_gpu_s, &batch.overlap};
  constexpr absl::string_view kMillis = "milliseconds from 0 to 1e9";
  constexpr absl::string_view kWanted[] = {"examples from 1 to 1e9",
                                           "examples from 1 to 1e9",
                                           "examples from 0 to 1e12",
                                           kMillis,
                                           "milliseconds above 0 to 1e9",
                                           kMillis,
                                           kMillis,
                                           "a number from 1 to 100"};
  constexpr double kLeast[] = {1, 1, 0, 0, 1e-9, 0, 0, 1};
  constexpr double kMost[] = {1e9, 1e9, 1e12, 1e9, 1e9, 1e9, 1e9, 100};
  const int place = column - kFirstOfBatch;
  double value = 0;
  if (!ReadNumber(cell, value) || value < kLeast[place] || value > kMost[place]) {
    return CellError(line, column, cell, kWanted[place]);
  }
  const bool millis = place >= 3 && place <= 6;
  *values[place] = millis ? value / 1000 : value;
  return absl::OkStatus();
}

absl::Status CheckBatch(int line, const sched::JobProfile& profile) {
  const sched::BatchModel& batch = profile.batch;
  const auto error = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("line ", line, " of the trace: ", what));
  };
  if (batch.own < 1) return error("example_ms without batch_size; give the batch it is for");
  if (batch.most > 0 && batch.most < batch.own) {
    return error(absl::StrCat("batch_max is ", batch.most, ", less than batch_size, ", batch.own));
  }
  if (!profile.speed.empty()) return error("both speedup and example_ms; give one of them");
  return absl::OkStatus();
}

absl::Status ReadCell(int line, int column, absl::string_view cell, sched::JobProfile& profile) {
  if (column == kCpuSpeed || column == kHostSpeed) {
    sched::SpeedCurve& curve = column == kCpuSpeed ? profile.cpu_speed : profile.host_speed;
    if (ReadPoints(cell, curve)) return absl::OkStatus();
    return CellError(line, column, cell,
                     "amount:speed pairs of a GPU, ascending, such as 1:0.4;3:1");
  }
  if (column >= kFirstOfBatch) return ReadBatch(line, column, cell, profile.batch);
  double value = 0;
  switch (column) {
    case kSpeedup:
      if (ReadCurve(cell, profile.speed)) return absl::OkStatus();
      return CellError(line, column, cell, "GPUs:throughput pairs, ascending, such as 1:1;2:1.9");
    case kTypeSpeed:
      if (ReadList(cell, sched::kGpuTypesMax, profile.type_speed)) return absl::OkStatus();
      return CellError(line, column, cell, "a number a type of GPU, such as 1;0.5;0.2");
    case kMemorySpeed:
      if (ReadList(cell, 100, profile.memory_speed)) return absl::OkStatus();
      return CellError(line, column, cell, "speeds with equal parts of the memory, 0.4;0.8;1");
    default:
      break;
  }
  if (!ReadNumber(cell, value)) return CellError(line, column, cell, "a number from 0 upwards");
  if (column == kBusy) {
    if (value > 1) return CellError(line, column, cell, "a share of the time from 0 to 1");
    profile.busy = value;
  } else if (column == kMemory) {
    profile.memory_gib = value;
  } else if (column == kScratch) {
    profile.scratch_gib = value;
  } else {
    profile.stage_s[column - kFirstStage] = value / 1000;
  }
  return absl::OkStatus();
}

}  // namespace

ProfileReader::ProfileReader(absl::string_view header) : places_(kColumns, -1) {
  static_assert(std::size(kNames) == kColumns);
  int index = 0;
  for (const absl::string_view cell : absl::StrSplit(header, ',')) {
    for (int column = 0; column < kColumns; ++column) {
      if (absl::StripAsciiWhitespace(cell) == kNames[column]) places_[column] = index;
    }
    ++index;
  }
}

absl::StatusOr<int> ProfileReader::Read(int line, const std::vector<absl::string_view>& cells,
                                        sched::Profiles& profiles) {
  std::string key;
  bool says = false;
  const auto cell = [&](int column) {
    const int place = places_[column];
    return place < 0 || place >= static_cast<int>(cells.size())
               ? absl::string_view()
               : absl::StripAsciiWhitespace(cells[place]);
  };
  // Other layouts have a column batch_size, too.
  const bool batch = !cell(kExample).empty();
  const auto skips = [&](int column) {
    return !batch && column >= kFirstOfBatch && column < kCpuSpeed;
  };
  for (int column = 0; column < kColumns; ++column) {
    if (skips(column)) continue;
    absl::StrAppend(&key, cell(column), ",");
    says |= !cell(column).empty();
  }
  if (!says) return -1;
  const auto [found, is_new] = known_.try_emplace(key, static_cast<int>(profiles.of.size()));
  if (!is_new) return found->second;
  sched::JobProfile profile;
  for (int column = 0; column < kColumns; ++column) {
    if (cell(column).empty() || skips(column)) continue;
    TIDE_RETURN_IF_ERROR(ReadCell(line, column, cell(column), profile));
  }
  if (batch) TIDE_RETURN_IF_ERROR(CheckBatch(line, profile));
  profiles.of.push_back(std::move(profile));
  return found->second;
}

}  // namespace tide::sim

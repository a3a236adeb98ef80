// Looking, thinning, packing.
#include "coordinator/history.h"

#include <set>

#include "base/status.h"
#include "coordinator/explain.h"
#include "coordinator/state.h"

namespace tide::coordinator {
namespace {

constexpr int64_t kFormat = 1;
constexpr int64_t kPeriodMs = 1000;
constexpr size_t kPointsAnswered = 40'000;  // about 60 bytes each: an answer is below 4 MiB
// When room is short, two samples are at least one part in so many of their age apart.
constexpr int64_t kPartsMax = 4096, kPartsMin = 8;

wire::Value ToValue(const History::Sample& sample) {
  wire::Value::Array jobs;
  for (const History::JobSample& job : sample.jobs) {
    jobs.emplace_back(wire::Value::Array{
        wire::Value(job.id), wire::Value(job.state), wire::Value(job.memory_bytes),
        wire::Value(job.demoted_bytes), wire::Value(job.iterations)});
  }
  return wire::Value::Array{wire::Value(sample.unix_ms), wire::Value(sample.used_bytes),
                            wire::Value(std::move(jobs))};
}

int64_t IntAt(const wire::Value::Array& row, size_t index) {
  const auto* value = index < row.size() ? row[index].As<int64_t>() : nullptr;
  return value != nullptr ? *value : 0;
}

/// False for what ToValue cannot have written.
bool FromValue(const wire::Value& value, History::Sample& sample) {
  const auto* row = value.As<wire::Value::Array>();
  if (row == nullptr || row->size() != 3) return false;
  const auto* jobs = (*row)[2].As<wire::Value::Array>();
  if (jobs == nullptr) return false;
  sample.unix_ms = IntAt(*row, 0);
  sample.used_bytes = IntAt(*row, 1);
  for (const wire::Value& one : *jobs) {
    const auto* job = one.As<wire::Value::Array>();
    if (job == nullptr || job->size() != 5) return false;
    const auto* state = (*job)[1].As<std::string>();
    if (state == nullptr) return false;
    sample.jobs.push_back({IntAt(*job, 0), *state, IntAt(*job, 2), IntAt(*job, 3), IntAt(*job, 4)});
  }
  return true;
}

wire::Value::Array NamesOf(const std::map<int64_t, History::Names>& names) {
  wire::Value::Array rows;
  for (const auto& [id, told] : names) {
    rows.emplace_back(wire::Value::Map{{"id", id}, {"name", told.name}, {"script", told.script}});
  }
  return rows;
}

}  // namespace

bool History::Due(int64_t unix_ms) const {
  if (samples_.empty()) return true;
  const Sample& last = samples_.back();
  const int64_t period_ms = kPeriodMs + static_cast<int64_t>(last.jobs.size());
  // A clock that was set back is no reason to wait until it is where it was.
  return unix_ms >= last.unix_ms + period_ms || unix_ms < last.unix_ms;
}

void History::Look(const State& state, const DeviceView& view, int64_t unix_ms) {
  Sample sample{unix_ms, view.held_bytes, {}};
  std::vector<bool> known(shm::kSlotCount, false);
  for (const auto& [id, job] : state.jobs) {
    if (!job.live()) continue;
    const SlotView* slot = view.Find(job.pid, static_cast<uint64_t>(job.start_time), job.slot);
    JobSample one{id.value(), StateWord(job, slot), 0, 0, 0};
    if (slot != nullptr) {
      known[static_cast<size_t>(slot->index)] = true;
      one.memory_bytes = slot->resident_bytes() + slot->outside_bytes;
      one.demoted_bytes = slot->demoted_bytes;
      one.iterations = slot->iterations;
    } else if (job.report) {
      one.memory_bytes = job.report->resident + job.report->outside;
      one.demoted_bytes = job.report->demoted;
      one.iterations = job.report->iterations;
    }
    names_[one.id] = {job.name, job.script};
    sample.jobs.push_back(std::move(one));
  }
  for (const SlotView& slot : view.slots) {
    if (known[static_cast<size_t>(slot.index)] || slot.orphans || slot.leaving) continue;
    names_[-slot.pid] = {slot.name, ""};
    sample.jobs.push_back({-slot.pid, PhaseName(slot.phase),
                           slot.resident_bytes() + slot.outside_bytes, slot.demoted_bytes,
                           slot.iterations});
  }
  const bool before = !samples_.empty() && !samples_.back().jobs.empty();
  if (!sample.jobs.empty() || before) Add(std::move(sample));
}

void History::Add(Sample sample) {
  points_ += 1 + sample.jobs.size();
  samples_.push_back(std::move(sample));
  ++version_;
  if (points_ > points_max_) Thin();
}

void History::Thin() {
  const int64_t newest_ms = samples_.back().unix_ms;
  // Of all steps the finest that makes room for some time; with thousands of jobs none may do.
  for (int64_t parts = kPartsMax; parts >= kPartsMin && points_ > points_max_ * 3 / 4; parts /= 2) {
    std::deque<Sample> kept;
    size_t points = 0;
    for (Sample& sample : samples_) {
      const int64_t age_ms = newest_ms - sample.unix_ms;
      const bool close = !kept.empty() && sample.unix_ms - kept.back().unix_ms < age_ms / parts;
      if (close) continue;
      points += 1 + sample.jobs.size();
      kept.push_back(std::move(sample));
    }
    samples_ = std::move(kept);
    points_ = points;
  }
  while (points_ > points_max_ && samples_.size() > 1) {
    points_ -= 1 + samples_.front().jobs.size();
    samples_.pop_front();
  }
  std::set<int64_t> named;
  for (const Sample& sample : samples_) {
    for (const JobSample& job : sample.jobs) named.insert(job.id);
  }
  std::erase_if(names_, [&](const auto& entry) { return !named.contains(entry.first); });
}

wire::Value::Map History::Answer(int64_t since_ms, int64_t count) const {
  wire::Value::Array samples;
  std::map<int64_t, Names> names;
  size_t points = 0;
  bool more = false;
  for (const Sample& sample : samples_) {
    if (sample.unix_ms <= since_ms) continue;
    points += 1 + sample.jobs.size();
    more = (count > 0 && samples.size() >= static_cast<size_t>(count)) ||
           (points > kPointsAnswered && !samples.empty());
    if (more) break;
    samples.push_back(ToValue(sample));
    for (const JobSample& job : sample.jobs) {
      if (const auto it = names_.find(job.id); it != names_.end()) names.insert(*it);
    }
  }
  return {{"samples", std::move(samples)}, {"jobs", NamesOf(names)}, {"more", more}};
}

std::string History::Packed() const {
  wire::Value::Array samples;
  for (const Sample& sample : samples_) samples.push_back(ToValue(sample));
  return wire::Pack(wire::Value::Map{
      {"format", kFormat}, {"samples", std::move(samples)}, {"jobs", NamesOf(names_)}});
}

absl::Status History::Restore(const std::string& packed) {
  TIDE_ASSIGN_OR_RETURN(const wire::Value value, wire::Unpack(packed));
  const wire::Value* samples = value.Find("samples");
  const wire::Value* jobs = value.Find("jobs");
  const auto* rows = samples != nullptr ? samples->As<wire::Value::Array>() : nullptr;
  const auto* told = jobs != nullptr ? jobs->As<wire::Value::Array>() : nullptr;
  if (value.Int("format") != kFormat || rows == nullptr || told == nullptr)
    return absl::InvalidArgumentError("it is no history of this version");
  History found(points_max_);
  for (const wire::Value& job : *told)
    found.names_[job.Int("id")] = {job.Text("name"), job.Text("script")};
  for (const wire::Value& row : *rows) {
    Sample sample;
    if (!FromValue(row, sample)) return absl::InvalidArgumentError("a sample makes no sense");
    found.Add(std::move(sample));
  }
  found.version_ = version_ + 1;
  *this = std::move(found);
  return absl::OkStatus();
}

}  // namespace tide::coordinator

// What a cluster has run, as a trace that `tide simulate` reads.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "coordinator/cluster.h"

namespace tide::coordinator {
namespace {

constexpr size_t kPageBytes = 1 << 20;

/// As a cell of comma-separated values; the reader knows no quotes.
std::string Cell(const std::string& text) {
  std::string cell = text;
  std::replace_if(
      cell.begin(), cell.end(), [](char c) { return c == ',' || c == '"' || (c >= 0 && c < ' '); },
      '_');
  return cell;
}

const char* TierWord(sched::JobTier tier) {
  if (tier == sched::JobTier::kGuaranteed) return "guaranteed";
  return tier == sched::JobTier::kOpportunistic ? "opportunistic" : "standard";
}

}  // namespace

wire::Value::Map ClusterTrace(const ClusterEngine& engine, int64_t since) {
  std::string csv;
  size_t next = static_cast<size_t>(std::max<int64_t>(0, since));
  int64_t jobs = 0, open = 0;
  if (next == 0) csv = "job_id,submit_s,gpus,duration_s,user,tier,deadline_s,gpus_min,gpus_max\n";
  for (; next < engine.jobs() && csv.size() < kPageBytes; ++next) {
    const JobIndex index(static_cast<int>(next));
    const sched::JobView& view = engine.view(index);
    const JobSpec& spec = engine.job(index).spec;
    const bool ended = view.state == sched::JobState::kDone;
    if (!ended) ++open;
    if (!ended || view.executed_s <= 0) continue;  // or it ended before the daemon was started
    const bool elastic = spec.devices_max > spec.devices;
    absl::StrAppendFormat(
        &csv, "%s,%.3f,%d,%.3f,%s,%s,%s,%s\n", Cell(spec.key), view.submit_s, spec.devices,
        view.executed_s, Cell(spec.user), TierWord(spec.tier),
        spec.deadline_s == sched::kNever ? std::string() : absl::StrFormat("%.3f", spec.deadline_s),
        elastic ? absl::StrCat(spec.devices, ",", spec.devices_max) : ",");
    ++jobs;
  }
  return {{"csv", std::move(csv)},
          {"jobs", jobs},
          {"open", open},
          {"next", next < engine.jobs() ? static_cast<int64_t>(next) : int64_t{-1}}};
}

}  // namespace tide::coordinator

// What people and tools see of the cluster: its state, why a job waits, when it would start.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "coordinator/cluster.h"
#include "coordinator/text.h"

namespace tide::coordinator {
namespace {

using sched::JobState;
using sched::JobView;

constexpr size_t kJobsShown = 2000;
constexpr size_t kNodesShown = 2000;
constexpr int kPreviewSteps = 20'000;
constexpr size_t kNamesShown = 10;

const char* StateName(const ClusterEngine& engine, JobIndex index) {
  if (engine.view(index).state == JobState::kRunning) return "running";
  return engine.job(index).at_gate ? "held" : "waiting";
}

/// Where it is about to go, or that its command is not where its devices are.
std::string MoveText(const ClusterEngine& engine, const ClusterJob& job) {
  if (!job.target.empty()) {
    return absl::StrCat("; it moves to ", engine.devices().Words(job.target),
                        " once it has saved (", job.target_why, "), asked for ",
                        Span(absl::Seconds(engine.now_s() - job.target_s)), " ago");
  }
  if (!job.away) return "";
  const std::string before = engine.devices().Words(job.placement_before);
  return job.spec.movable
             ? absl::StrCat("; its command is still on ", before, " and is carried over")
             : absl::StrCat("; what it started on ", before,
                            " stays paused: it was not submitted with --movable");
}

std::string WhyText(const ClusterEngine& engine, JobIndex index) {
  const ClusterJob& job = engine.job(index);
  const JobView& view = engine.view(index);
  if (view.state == JobState::kRunning) {
    return absl::StrCat("runs on ", job.devices(), " devices since ",
                        Span(absl::Seconds(engine.now_s() - view.since_s)), ": ", job.reason,
                        MoveText(engine, job));
  }
  if (job.at_gate) return engine.gate().Why(view, engine.capacity());
  return absl::StrFormat("it asks for %d devices, %d of %d are free; %s", view.gpus,
                         engine.devices().free(), engine.devices().working(), job.reason);
}

wire::Value::Map Places(const ClusterEngine& engine, const Placement& placement) {
  wire::Value::Map places;
  for (const DeviceShare& share : placement) {
    places.emplace_back(engine.devices().nodes()[share.node.value()].name, share.devices);
  }
  return places;
}

wire::Value::Map JobRecord(const ClusterState& cluster, JobIndex index) {
  const ClusterEngine& engine = *cluster.engine;
  const ClusterJob& job = engine.job(index);
  const JobView& view = engine.view(index);
  const JobFigures& figures = cluster.figures[static_cast<size_t>(index.value())];
  return {{"key", job.spec.key},
          {"user", job.spec.user},
          {"state", StateName(engine, index)},
          {"devices", job.devices()},
          {"devices_wanted", job.spec.devices},
          {"devices_max", job.spec.devices_max},
          {"nodes", Places(engine, job.placement)},
          {"movable", job.spec.movable},
          {"moves_to", Places(engine, job.target)},
          {"submitted_s", view.submit_s},
          {"executed_s", view.ExecutedAt(engine.now_s())},
          {"estimate_s", job.spec.estimate_s},
          {"iterations", figures.iterations},
          {"step_ms", figures.step_ms},
          {"resident", figures.resident},
          {"demoted", figures.demoted},
          {"reports", figures.reports},
          {"revision", job.revision},
          {"text", WhyText(engine, index)}};
}

wire::Value::Array Keys(const ClusterEngine& engine, const std::vector<JobIndex>& jobs) {
  wire::Value::Array keys;
  for (size_t i = 0; i < jobs.size() && i < kNamesShown; ++i)
    keys.emplace_back(engine.job(jobs[i]).spec.key);
  return keys;
}

/// Who holds the devices: the largest first.
std::vector<JobIndex> Holders(const ClusterEngine& engine) {
  std::vector<JobIndex> holders;
  for (const JobIndex index : engine.open_jobs()) {
    if (engine.view(index).state == JobState::kRunning) holders.push_back(index);
  }
  std::stable_sort(holders.begin(), holders.end(), [&](JobIndex a, JobIndex b) {
    return engine.job(a).devices() > engine.job(b).devices();
  });
  return holders;
}

wire::Value::Array Advice(const ClusterEngine& engine, JobIndex index) {
  const ClusterJob& job = engine.job(index);
  const JobView& view = engine.view(index);
  wire::Value::Array advice;
  if (view.state == JobState::kRunning) return advice;
  if (view.gpus > engine.devices().working()) {
    advice.emplace_back(absl::StrCat("ask for at most ", engine.devices().working(),
                                     " devices, or let more nodes join"));
  } else if (job.spec.devices > 1) {
    advice.emplace_back(
        "a smaller gang fits sooner; with --devices-max it grows when there is room");
  }
  if (job.spec.estimate_s == 0)
    advice.emplace_back("give an estimate: what ends before a reservation may use its devices");
  return advice;
}

}  // namespace

wire::Value::Map ClusterRecord(const ClusterState& cluster) {
  if (!cluster.engine) return {{"serving", false}};
  const ClusterEngine& engine = *cluster.engine;
  wire::Value::Array nodes, jobs, users;
  for (const ClusterDevices::Node& node : engine.devices().nodes()) {
    if (nodes.size() >= kNodesShown) break;
    const auto link = cluster.nodes.find(node.name);
    const bool linked = link != cluster.nodes.end() && link->second.peer.value() >= 0;
    nodes.push_back(wire::Value(wire::Value::Map{{"name", node.name},
                                                 {"devices", node.devices},
                                                 {"used", node.used},
                                                 {"works", node.works},
                                                 {"drains", node.drains},
                                                 {"connected", linked}}));
  }
  for (const JobIndex index : engine.open_jobs()) {
    if (jobs.size() >= kJobsShown) break;
    if (!engine.job(index).withdrawn) jobs.push_back(wire::Value(JobRecord(cluster, index)));
  }
  for (const ClusterGate::User& user : engine.gate().users()) {
    users.push_back(wire::Value(
        wire::Value::Map{{"name", user.name},
                         {"weight", user.rule.weight},
                         {"quota_devices", user.rule.quota_devices},
                         {"running_devices", user.running_devices},
                         {"used_device_seconds", engine.gate().UsedAt(user, engine.now_s())}}));
  }
  return {{"serving", true},
          {"policy", engine.options().policy},
          {"now_s", engine.now_s()},
          {"devices", engine.devices().working()},
          {"devices_free", engine.devices().free()},
          {"jobs_open", engine.open_jobs().size()},
          {"jobs_running", engine.running_jobs()},
          {"jobs_held", engine.gate().held()},
          {"reports", cluster.reports},
          {"decisions", cluster.decisions},
          {"inputs", cluster.next_input - 1},
          {"inputs_since_snapshot", cluster.next_input - 1 - cluster.snapshot_seq},
          {"journal_bounded", engine.has_snapshot() && cluster.settings.snapshot_inputs > 0},
          {"nodes", std::move(nodes)},
          {"users", std::move(users)},
          {"jobs", std::move(jobs)}};
}

absl::StatusOr<wire::Value::Map> ExplainClusterJob(const ClusterState& cluster,
                                                   const std::string& key) {
  if (!cluster.engine) return absl::NotFoundError("this daemon serves no cluster");
  const ClusterEngine& engine = *cluster.engine;
  const JobIndex index = engine.Find(key);
  if (index.value() < 0) return absl::NotFoundError(absl::StrCat("no open job has the key ", key));
  const bool running = engine.view(index).state == JobState::kRunning;
  std::string text = absl::StrCat(key, ": ", WhyText(engine, index));
  wire::Value::Map numbers = {{"devices", engine.view(index).gpus},
                              {"free", engine.devices().free()},
                              {"working", engine.devices().working()}};
  std::vector<JobIndex> ahead;
  if (!running) {
    const ClusterEngine::Forecast forecast = engine.Preview(index, kPreviewSteps);
    ahead = forecast.before;
    if (forecast.start_s != sched::kNever) {
      absl::StrAppend(&text, "; by the estimates it starts in ",
                      Span(absl::Seconds(forecast.start_s - engine.now_s())));
      numbers.emplace_back("start_in_s", forecast.start_s - engine.now_s());
    }
    std::vector<std::string> names;
    for (const JobIndex holder : Holders(engine)) {
      if (names.size() == 3) break;
      names.push_back(
          absl::StrCat(engine.job(holder).spec.key, " (", engine.job(holder).devices(), ")"));
    }
    if (!names.empty())
      absl::StrAppend(&text, "; most devices are held by ", absl::StrJoin(names, ", "));
  }
  return wire::Value::Map{{"job", key},
                          {"state", StateName(engine, index)},
                          {"devices", engine.job(index).devices()},
                          {"nodes", Places(engine, engine.job(index).placement)},
                          {"reason", engine.job(index).at_gate ? "held_at_gate"
                                     : running                 ? "running"
                                                               : "waiting_for_devices"},
                          {"text", std::move(text)},
                          {"ahead", Keys(engine, ahead)},
                          {"advice", Advice(engine, index)},
                          {"numbers", std::move(numbers)}};
}

absl::StatusOr<wire::Value::Map> ClusterPlacement(const ClusterState& cluster,
                                                  const std::string& key) {
  if (!cluster.engine) return absl::UnavailableError("this daemon serves no cluster");
  const ClusterEngine& engine = *cluster.engine;
  const JobIndex index = engine.Find(key);
  if (index.value() < 0) return absl::NotFoundError(absl::StrCat("no open job has the key ", key));
  const ClusterJob& job = engine.job(index);
  wire::Value::Map record = {
      {"key", key},
      {"state", StateName(engine, index)},
      {"revision", job.revision},
      {"nodes", Places(engine, job.placement)},
      {"away", job.away},
      {"reports", cluster.figures[static_cast<size_t>(index.value())].reports},
      {"text", absl::StrCat(key, ": ", WhyText(engine, index))}};
  if (job.target.empty()) return record;
  record.emplace_back("move", wire::Value(wire::Value::Map{{"nodes", Places(engine, job.target)},
                                                           {"reason", job.target_why}}));
  return record;
}

absl::StatusOr<wire::Value::Map> PreviewClusterJob(const ClusterState& cluster,
                                                   const std::string& key, const JobSpec* spec) {
  if (!cluster.engine) return absl::UnavailableError("this daemon serves no cluster");
  const ClusterEngine& engine = *cluster.engine;
  ClusterEngine::Forecast forecast;
  if (spec != nullptr) {
    const absl::Status fits =
        engine.Check({.kind = ClusterInputKind::kSubmit, .now_s = engine.now_s(), .spec = *spec});
    if (!fits.ok()) return fits;
    forecast = engine.PreviewOf(*spec, kPreviewSteps);
  } else {
    const JobIndex index = engine.Find(key);
    if (index.value() < 0)
      return absl::NotFoundError(absl::StrCat("no open job has the key ", key));
    if (engine.view(index).state == JobState::kRunning) {
      return wire::Value::Map{{"key", key}, {"start_in_s", 0.0}, {"text", key + " runs already"}};
    }
    forecast = engine.Preview(index, kPreviewSteps);
  }
  wire::Value::Map data = {{"key", key}, {"before", Keys(engine, forecast.before)}};
  std::string text;
  if (forecast.start_s == sched::kNever) {
    text = absl::StrCat(key, " does not start by the estimates that there are",
                        forecast.guessed ? ": jobs without an estimate hold devices" : "");
  } else {
    const double in_s = forecast.start_s - engine.now_s();
    data.emplace_back("start_in_s", in_s);
    text =
        absl::StrCat(key, " would start in ", Span(absl::Seconds(in_s)), " under ",
                     engine.options().policy, ", after ", forecast.before.size(), " other starts",
                     forecast.guessed ? "; jobs without an estimate are taken "
                                        "to run on"
                                      : "");
  }
  data.emplace_back("text", std::move(text));
  return data;
}

}  // namespace tide::coordinator

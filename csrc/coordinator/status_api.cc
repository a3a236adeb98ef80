// JSON and OpenMetrics of the daemon's state.
#include "coordinator/status_api.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "coordinator/records.h"

namespace tide::coordinator {
namespace {

constexpr size_t kEventsOfAPage = 200;

/// Collects one family of samples after the other (OpenMetrics 1.0: a family stands together).
class Metrics {
 public:
  void Family(absl::string_view name, absl::string_view type, absl::string_view help) {
    name_ = absl::StrCat("torchtide_", name);
    suffix_ = type == "counter" ? "_total" : "";
    absl::StrAppend(&text_, "# TYPE ", name_, " ", type, "\n# HELP ", name_, " ", help, "\n");
  }
  template <typename Number>
  void Sample(Number value, absl::string_view label = "", absl::string_view of = "") {
    absl::StrAppend(&text_, name_, suffix_);
    if (!label.empty()) absl::StrAppend(&text_, "{", label, "=", Quoted(of), "}");
    absl::StrAppend(&text_, " ", value, "\n");
  }
  std::string Finish() { return text_ + "# EOF\n"; }

 private:
  static std::string Quoted(absl::string_view text) {
    std::string out = "\"";
    for (const char c : text) {
      if (c == '"' || c == '\\') out += '\\';
      out += c == '\n' ? ' ' : c;
    }
    return out + "\"";
  }
  std::string text_, name_, suffix_;
};

void MachineMetrics(const State& state, const DeviceView& view, const Moment& now,
                    Metrics& metrics) {
  metrics.Family("uptime_seconds", "gauge", "Since this daemon started.");
  metrics.Sample(absl::ToDoubleSeconds(now.wall - state.started));
  metrics.Family("events", "counter", "Events ever recorded.");
  metrics.Sample(state.next_seq - 1);
  metrics.Family("connections", "gauge", "Jobs, nodes and clients connected.");
  metrics.Sample(state.peers.size());
  metrics.Family("jobs", "gauge", "Registered jobs that live.");
  metrics.Sample(state.live_jobs());
  metrics.Family("device_capacity_bytes", "gauge", "Capacity of the device.");
  metrics.Sample(view.capacity_bytes);
  metrics.Family("device_used_bytes", "gauge", "In memory now.");
  metrics.Sample(view.held_bytes);
  metrics.Family("device_charged_bytes", "gauge", "Used, with what is kept ready for the jobs.");
  metrics.Sample(view.used_bytes);
  const auto by_job = [&](absl::string_view name, absl::string_view type, absl::string_view help,
                          auto value) {
    metrics.Family(name, type, help);
    for (const SlotView& slot : view.slots) metrics.Sample(value(slot), "job", slot.name);
  };
  by_job("job_resident_bytes", "gauge", "Pages of a job in memory.",
         [](const SlotView& slot) { return slot.resident_bytes(); });
  by_job("job_demoted_bytes", "gauge", "Pages of a job in the file tier.",
         [](const SlotView& slot) { return slot.demoted_bytes; });
  by_job("job_iterations", "counter", "Boundaries a job has passed.",
         [](const SlotView& slot) { return slot.iterations; });
  metrics.Family("lane_handovers", "counter", "Turns passed on.");
  for (const LaneView& lane : view.lanes)
    metrics.Sample(lane.handovers, "lane", absl::StrCat(lane.id));
}

void ClusterMetrics(const ClusterState& cluster, Metrics& metrics) {
  const ClusterEngine& engine = *cluster.engine;
  metrics.Family("cluster_devices", "gauge", "Devices of nodes that work.");
  metrics.Sample(engine.devices().working());
  metrics.Family("cluster_devices_free", "gauge", "Of them, held by nobody.");
  metrics.Sample(engine.devices().free());
  metrics.Family("cluster_jobs", "gauge", "Open jobs by state.");
  const size_t held = engine.gate().held(), running = engine.running_jobs();
  metrics.Sample(running, "state", "running");
  metrics.Sample(held, "state", "held");
  metrics.Sample(engine.open_jobs().size() - running - held, "state", "waiting");
  metrics.Family("cluster_nodes", "gauge", "Nodes by whether they work.");
  const auto& nodes = engine.devices().nodes();
  const auto working = std::count_if(nodes.begin(), nodes.end(),
                                     [](const ClusterDevices::Node& node) { return node.works; });
  metrics.Sample(working, "state", "working");
  metrics.Sample(static_cast<int64_t>(nodes.size()) - working, "state", "lost");
  metrics.Family("cluster_reports", "counter", "Reports of jobs received.");
  metrics.Sample(cluster.reports);
  metrics.Family("cluster_decisions", "counter", "Decisions taken since the daemon started.");
  metrics.Sample(cluster.decisions);
  metrics.Family("cluster_user_device_seconds", "gauge", "Use of a user, older use counting less.");
  for (const ClusterGate::User& user : engine.gate().users()) {
    metrics.Sample(engine.gate().UsedAt(user, engine.now_s()), "user", user.name);
  }
}

std::string Events(const State& state, int64_t since) {
  wire::Value::Array newest_first;
  for (auto it = state.events.rbegin();
       it != state.events.rend() && newest_first.size() < kEventsOfAPage && it->seq > since; ++it) {
    newest_first.push_back(wire::Value(wire::EventRecord(*it)));
  }
  std::reverse(newest_first.begin(), newest_first.end());
  return ToJson(wire::Value(
      wire::Value::Map{{"events", std::move(newest_first)}, {"last_seq", state.next_seq - 1}}));
}

}  // namespace

std::optional<HttpBody> StatusAnswer(const State& state, const DeviceView& view, const Moment& now,
                                     const HttpQuestion& question) {
  constexpr char kJson[] = "application/json";
  if (question.path == "/") return HttpBody{"text/html; charset=utf-8", kStatusPage};
  if (question.path == "/api/state") {
    wire::Value::Map record = StatusRecord(state, view, now);
    record.emplace_back("time", now.unix_s());
    record.emplace_back("cluster", ClusterRecord(state.cluster));
    return HttpBody{kJson, ToJson(wire::Value(std::move(record)))};
  }
  if (question.path == "/api/events") return HttpBody{kJson, Events(state, question.since)};
  if (question.path == "/api/history")
    return HttpBody{kJson, ToJson(wire::Value(state.history.Answer(question.since, 0)))};
  if (question.path == "/api/cluster")
    return HttpBody{kJson, ToJson(wire::Value(ClusterRecord(state.cluster)))};
  if (question.path != "/metrics") return std::nullopt;
  Metrics metrics;
  MachineMetrics(state, view, now, metrics);
  if (state.cluster.engine) ClusterMetrics(state.cluster, metrics);
  return HttpBody{"application/openmetrics-text; version=1.0.0; charset=utf-8", metrics.Finish()};
}

}  // namespace tide::coordinator

// The simulator for Python: a trace through a policy, figures and curves out.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "base/clock.h"
#include "bind/interpreter.h"
#include "bind/python_policy.h"
#include "bind/status_error.h"
#include "sim/replay.h"
#include "sim/summary.h"

namespace py = pybind11;
using tide::sim::NodeFault;
using tide::sim::ReplayOptions;
using tide::sim::ReplayResult;
using tide::sim::Summary;
using tide::sim::Trace;

namespace {

tide::sched::ClusterPolicyOptions PolicyOptions(const py::dict& given) {
  tide::sched::ClusterPolicyOptions options;
  for (const auto& [key, value] : given) {
    const std::string name = py::cast<std::string>(key);
    if (name == "seed") {
      options.seed = py::cast<uint64_t>(value);
    } else if (name == "queue_limits_s") {
      options.queue_limits_s = py::cast<std::vector<double>>(value);
    } else if (name == "starvation_knob") {
      options.starvation_knob = py::cast<double>(value);
    } else if (name == "round_s") {
      options.round_s = py::cast<double>(value);
    } else if (name == "restart_cost_s") {
      options.restart_cost_s = py::cast<double>(value);
    } else if (name == "quotas") {
      options.quotas = py::cast<std::vector<double>>(value);
    } else if (name == "strict_rounds") {
      options.strict_rounds = py::cast<bool>(value);
    } else if (name == "profiler_gpus") {
      options.profiler_gpus = py::cast<int>(value);
    } else if (name == "profiler_limit_s") {
      options.profiler_limit_s = py::cast<double>(value);
    } else {
      tide::bind::Throw(absl::InvalidArgumentError(
          "no option of a policy is called \"" + name +
          "\"; there are seed, queue_limits_s, starvation_knob, round_s, restart_cost_s, "
          "quotas, strict_rounds, profiler_gpus, profiler_limit_s"));
    }
  }
  return options;
}

NodeFault Fault(const py::dict& given) {
  NodeFault fault;
  for (const auto& [key, value] : given) {
    const std::string name = py::cast<std::string>(key);
    if (name == "node") {
      fault.node = py::cast<int>(value);
    } else if (name == "at_s") {
      fault.at_s = py::cast<double>(value);
    } else if (name == "for_s") {
      fault.for_s = py::cast<double>(value);
    } else if (name == "speed") {
      fault.speed = py::cast<double>(value);
    } else if (name == "kind") {
      const std::string kind = py::cast<std::string>(value);
      if (kind != "node" && kind != "link" && kind != "slow") {
        tide::bind::Throw(absl::InvalidArgumentError("a fault of kind \"" + kind +
                                                     "\"; there are node, link, slow"));
      }
      fault.kind = kind == "node"   ? tide::sim::FaultKind::kNode
                   : kind == "link" ? tide::sim::FaultKind::kLink
                                    : tide::sim::FaultKind::kSlow;
    } else {
      tide::bind::Throw(absl::InvalidArgumentError("a fault has no \"" + name +
                                                   "\"; there are node, at_s, for_s, kind, speed"));
    }
  }
  return fault;
}

tide::sim::GpuType GpuType(const py::dict& given) {
  tide::sim::GpuType type;
  type.name = py::cast<std::string>(given["name"]);
  type.nodes = py::cast<int>(given["nodes"]);
  type.gpus_per_node = py::cast<int>(given["gpus_per_node"]);
  if (given.contains("cost")) type.cost = py::cast<double>(given["cost"]);
  return type;
}

tide::sim::Loan Loan(const py::dict& given) {
  return {.nodes = py::cast<int>(given["nodes"]),
          .from_s = py::cast<double>(given["from_s"]),
          .to_s = py::cast<double>(given["to_s"])};
}

tide::sim::ClusterSpec Cluster(int nodes, int gpus_per_node, const py::dict& given) {
  tide::sim::ClusterSpec cluster{.nodes = nodes, .gpus_per_node = gpus_per_node};
  const std::pair<const char*, double*> numbers[] = {
      {"restart_cost_s", &cluster.restart_cost_s},
      {"checkpoint_every_s", &cluster.checkpoint_every_s},
      {"resize_cost_s", &cluster.resize_cost_s},
      {"spread_speed", &cluster.spread_speed},
      {"switch_speed", &cluster.switch_speed},
      {"gpu_memory_gib", &cluster.gpu_memory_gib},
      {"cpus_per_node", &cluster.cpus_per_node},
      {"memory_gib_per_node", &cluster.memory_gib_per_node}};
  for (const auto& [key, value] : given) {
    const std::string name = py::cast<std::string>(key);
    const auto* number = std::find_if(std::begin(numbers), std::end(numbers),
                                      [&](const auto& entry) { return name == entry.first; });
    if (number != std::end(numbers)) {
      *number->second = py::cast<double>(value);
    } else if (name == "nodes_per_switch") {
      cluster.nodes_per_switch = py::cast<int>(value);
    } else if (name == "share_cost") {
      cluster.share_cost = py::cast<std::vector<double>>(value);
    } else if (name == "faults") {
      for (const auto& fault : py::cast<std::vector<py::dict>>(value)) {
        cluster.faults.push_back(Fault(fault));
      }
    } else if (name == "types") {
      for (const auto& type : py::cast<std::vector<py::dict>>(value)) {
        cluster.types.push_back(GpuType(type));
      }
    } else if (name == "loans") {
      for (const auto& loan : py::cast<std::vector<py::dict>>(value)) {
        cluster.loans.push_back(Loan(loan));
      }
    } else {
      tide::bind::Throw(absl::InvalidArgumentError(
          "no option of a cluster is called \"" + name +
          "\"; there are restart_cost_s, checkpoint_every_s, resize_cost_s, spread_speed, "
          "switch_speed, nodes_per_switch, gpu_memory_gib, cpus_per_node, memory_gib_per_node, "
          "share_cost, faults, types, loans"));
    }
  }
  return cluster;
}

py::dict ResultDict(const Trace& trace, const ReplayResult& result, const Summary& summary) {
  py::dict dict;
  dict["trace"] = trace.name;
  dict["jobs_done"] = summary.jobs_done;
  dict["jobs"] = summary.jobs;
  dict["avg_jct_s"] = summary.avg_jct_s;
  dict["median_jct_s"] = summary.median_jct_s;
  dict["p99_jct_s"] = summary.p99_jct_s;
  dict["makespan_s"] = summary.makespan_s;
  dict["preemptions"] = result.preemptions;
  dict["events"] = result.events;
  dict["jobs_refused"] = summary.jobs_refused;
  dict["evictions"] = result.evictions;
  dict["spread_starts"] = result.spread_starts;
  dict["resizes"] = result.resizes;
  dict["shared_starts"] = result.shared_starts;
  dict["cost"] = result.cost;
  dict["avg_wait_s"] = summary.avg_wait_s;
  dict["utilisation"] = summary.utilisation;
  dict["gpu_seconds_lost"] = result.gpu_seconds_lost;
  dict["deadlines_met"] = result.deadlines_met;
  dict["deadlines"] = result.deadlines;
  return dict;
}

void AddCurves(const Trace& trace, const ReplayResult& result, py::dict& dict) {
  dict["jct_s"] = result.jct_s;
  dict["usage"] = result.usage;
  if (!result.spans.empty()) {
    py::list spans;
    for (const tide::sim::JobSpan& span : result.spans) {
      spans.append(py::make_tuple(trace.job_ids[span.job.value()], span.from_s, span.to_s,
                                  span.gpus, span.node));
    }
    dict["spans"] = spans;
  }
  std::vector<std::pair<std::string, std::string>> refused;
  for (const tide::sim::RefusedJob& job : result.refused) {
    refused.emplace_back(trace.job_ids[job.job.value()], job.reason);
  }
  dict["refused"] = refused;
}

/// Replays and, when `timed`, adds what it took: the whole loop and each decision.
py::dict Simulate(const Trace& trace, const py::object& policy, int nodes, int gpus_per_node,
                  const py::dict& policy_options, const py::dict& cluster_options, bool timed,
                  bool logged, bool spans) {
  bool failed = false;  // a policy in Python has raised
  auto made = py::isinstance<py::str>(policy)
                  ? tide::bind::ValueOrThrow(tide::sched::MakeClusterPolicy(
                        py::cast<std::string>(policy), PolicyOptions(policy_options)))
                  : tide::bind::MakePythonPolicy(policy, trace, failed);
  std::string log;
  const ReplayOptions options{
      .cluster = Cluster(nodes, gpus_per_node, cluster_options),
      .decision_clock = timed ? &tide::RealClock() : nullptr,
      .decision_log = logged ? &log : nullptr,
      .keep_spans = spans,
      .interrupted = [&] { return failed || !tide::bind::CheckSignals().ok(); }};
  absl::StatusOr<ReplayResult> result;
  const int64_t begin = tide::RealClock().MonotonicNanos();
  {
    const tide::bind::WithoutInterpreter released;
    result = tide::sim::Replay(trace, std::move(made), options);
  }
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  const double took_s = 1e-9 * static_cast<double>(tide::RealClock().MonotonicNanos() - begin);
  const ReplayResult replayed = tide::bind::ValueOrThrow(std::move(result));
  const int gpus = options.cluster.Gpus();
  py::dict dict = ResultDict(trace, replayed, tide::sim::Summarise(trace, replayed, gpus));
  dict["gpus"] = gpus;
  dict["policy"] = py::isinstance<py::str>(policy) ? policy : policy.attr("name");
  dict["seconds"] = took_s;
  AddCurves(trace, replayed, dict);
  if (timed) {
    const std::vector<double> nanos(replayed.decide_nanos.begin(), replayed.decide_nanos.end());
    dict["decide_ms_p99"] = 1e-6 * tide::sim::Quantile(nanos, 0.99);
  }
  if (logged) dict["log"] = log;
  return dict;
}

}  // namespace

void BindSim(py::module_& module) {
  tide::bind::BindPythonPolicy(module);
  py::class_<Trace>(module, "Trace", "Jobs of a trace, read or drawn once and replayed often.")
      .def_readonly("name", &Trace::name)
      .def("__len__", [](const Trace& trace) { return trace.jobs.size(); })
      .def(
          "assume_elastic",
          [](Trace& trace, double serial_share, int factor) {
            tide::bind::ThrowIfError(tide::sim::AssumeElastic(trace, serial_share, factor));
          },
          py::arg("serial_share"), py::arg("factor") = 2,
          "Lets each rigid job run on 1 to `factor` times its gang, with speeds by Amdahl's law.");
  module.def(
      "read_trace",
      [](const std::string& path) { return tide::bind::ValueOrThrow(tide::sim::ReadTrace(path)); },
      py::arg("path"), "Reads a CSV file with the columns job_id,submit_s,gpus,duration_s.");
  module.def(
      "parse_trace",
      [](const std::string& text, const std::string& name) {
        return tide::bind::ValueOrThrow(tide::sim::ParseTrace(text, name));
      },
      py::arg("text"), py::arg("name"), "Reads the text of a CSV file, as read_trace does.");
  module.def("draw_trace", &tide::sim::DrawTrace, py::arg("jobs"), py::arg("gpus"), py::arg("load"),
             py::arg("seed"), "Draws a trace, for measurements of speed.");
  module.def(
      "cluster_policies",
      [] {
        std::vector<std::pair<std::string, std::string>> policies;
        for (const tide::sched::ClusterPolicyInfo& info : tide::sched::ClusterPolicies()) {
          policies.emplace_back(info.name, info.summary);
        }
        return policies;
      },
      "(name, rule in a line) of each cluster policy.");
  module.def("simulate", &Simulate, py::arg("trace"), py::arg("policy"), py::arg("nodes"),
             py::arg("gpus_per_node"), py::arg("policy_options") = py::dict(),
             py::arg("cluster_options") = py::dict(), py::arg("timed") = false,
             py::arg("logged") = false, py::arg("spans") = false,
             "Replays a trace; returns its figures. One node of all GPUs is placement by count.");
}

// The view that a policy in Python gets, and its answers as actions.
#include <pybind11/stl.h>

#include <set>

#include "bind/interpreter.h"
#include "bind/python_policy.h"

namespace py = pybind11;
using tide::sched::ClusterDecision;
using tide::sched::ClusterInput;
using tide::sched::JobAction;
using tide::sched::JobActionKind;
using tide::sched::JobEvent;
using tide::sched::JobEventKind;
using tide::sched::JobIndex;
using tide::sched::JobState;
using tide::sched::JobView;

namespace tide::bind {
namespace {

// One job that runs or waits, as it is now.
struct JobRow {
  JobIndex index;
  std::string job_id;
  JobView view;
  double now_s = 0;
  const sched::Profiles* profiles = nullptr;  // borrowed from the trace, which outlives the replay
};

// Reasons are literals in C++; those of Python are kept for as long as the policy lives.
using Reasons = std::set<std::string>;

struct View {
  double now_s = 0;
  int gpus = 0;
  int free = 0;  // as things were when it was made
  std::vector<JobRow> waiting, running;
  ClusterDecision decision;
  std::shared_ptr<Reasons> reasons;

  void Add(const JobRow& job, JobActionKind kind, const std::string& reason, int gpus = 0) {
    decision.actions.push_back({.job = job.index,
                                .kind = kind,
                                .reason = reasons->insert(reason).first->c_str(),
                                .gpus = gpus});
  }
};

class PythonPolicy final : public sched::ClusterPolicy {
 public:
  PythonPolicy(py::object object, const sim::Trace& trace, bool& failed)
      : object_(std::move(object)), trace_(trace), failed_(failed) {}
  ~PythonPolicy() override {
    const WithInterpreter locked;
    object_ = py::object();
  }
  // Its state is Python's; only the simulator runs it, and that makes no copies.
  std::unique_ptr<ClusterPolicy> Clone() const override { return nullptr; }

  ClusterDecision Decide(const ClusterInput& input) override {
    if (failed_) return {};
    for (const JobEvent& event : input.events) {
      if (event.kind == JobEventKind::kArrival) active_.push_back(event.job);
    }
    std::erase_if(active_, [&](JobIndex job) {
      const JobState state = input.jobs[job.value()].state;
      return state != JobState::kRunning && state != JobState::kPending;
    });
    const WithInterpreter locked;
    try {
      View view{.now_s = input.now_s,
                .gpus = input.cluster.gpus,
                .free = input.cluster.gpus,
                .reasons = reasons_};
      for (const JobIndex index : active_) {
        const JobView& job = input.jobs[index.value()];
        const bool runs = job.state == JobState::kRunning;
        if (runs) view.free -= job.held;
        (runs ? view.running : view.waiting)
            .push_back({.index = index,
                        .job_id = trace_.job_ids[index.value()],
                        .view = job,
                        .now_s = input.now_s,
                        .profiles = input.profiles});
      }
      Call(object_.attr("decide"), py::cast(&view, py::return_value_policy::reference));
      return std::move(view.decision);
    } catch (py::error_already_set& error) {
      error.restore();
      failed_ = true;
      return {};
    }
  }

 private:
  py::object object_;
  const sim::Trace& trace_;
  bool& failed_;
  std::vector<JobIndex> active_;
  std::shared_ptr<Reasons> reasons_ = std::make_shared<Reasons>();
};

}  // namespace

std::unique_ptr<sched::ClusterPolicy> MakePythonPolicy(py::object object, const sim::Trace& trace,
                                                       bool& failed) {
  return std::make_unique<PythonPolicy>(std::move(object), trace, failed);
}

void BindPythonPolicy(py::module_& module) {
  const auto text = [](const char* name, auto member) { return std::make_pair(name, member); };
  py::class_<JobRow> row(module, "JobRow", "A job that runs or waits, as it is at a decision.");
  row.def_readonly("job_id", &JobRow::job_id);
  for (const auto& [name, member] :
       {text("gpus", &JobView::gpus), text("user", &JobView::user),
        text("gpus_min", &JobView::gpus_min), text("gpus_max", &JobView::gpus_max),
        text("held", &JobView::held)}) {
    row.def_property_readonly(name,
                              [member = member](const JobRow& job) { return job.view.*member; });
  }
  for (const auto& [name, member] :
       {text("submit_s", &JobView::submit_s), text("duration_s", &JobView::duration_s),
        text("deadline_s", &JobView::deadline_s), text("weight", &JobView::weight)}) {
    row.def_property_readonly(name,
                              [member = member](const JobRow& job) { return job.view.*member; });
  }
  row.def_property_readonly("executed_s",
                            [](const JobRow& job) { return job.view.ExecutedAt(job.now_s); });
  row.def_property_readonly("remaining_s",
                            [](const JobRow& job) { return job.view.RemainingAt(job.now_s); });
  row.def(
      "speed", [](const JobRow& job, int gpus) { return SpeedOf(job.view, job.profiles, gpus); },
      py::arg("gpus"),
      "Speed with so many GPUs over that with its gang; 0: it does not run on them.");
  py::class_<View>(module, "View", "What a policy sees, and how it answers.")
      .def_readonly("now_s", &View::now_s)
      .def_readonly("gpus", &View::gpus, "GPUs that work.")
      .def_readonly("free", &View::free, "Of those, nobody's before this decision.")
      .def_readonly("waiting", &View::waiting, "In order of submission.")
      .def_readonly("running", &View::running, "In order of submission.")
      .def(
          "start",
          [](View& view, const JobRow& job, int gpus, const std::string& reason) {
            view.Add(job, JobActionKind::kStart, reason, gpus);
          },
          py::arg("job"), py::arg("gpus") = 0, py::arg("reason") = "the policy starts it",
          "Starts a job that waits, on its gang or on `gpus`.")
      .def(
          "resize",
          [](View& view, const JobRow& job, int gpus, const std::string& reason) {
            view.Add(job, JobActionKind::kResize, reason, gpus);
          },
          py::arg("job"), py::arg("gpus"), py::arg("reason") = "the policy resizes it",
          "Changes the GPUs of a job that runs.")
      .def(
          "preempt",
          [](View& view, const JobRow& job, const std::string& reason) {
            view.Add(job, JobActionKind::kPreempt, reason);
          },
          py::arg("job"), py::arg("reason") = "the policy preempts it",
          "Stops a job that runs; it waits again.")
      .def(
          "refuse",
          [](View& view, const JobRow& job, const std::string& reason) {
            view.Add(job, JobActionKind::kRefuse, reason);
          },
          py::arg("job"), py::arg("reason"), "Declines a job that waits, for ever.")
      .def(
          "wake_at", [](View& view, double time_s) { view.decision.wake_s = time_s; },
          py::arg("time_s"), "Asks to be called then, though nothing has happened.");
}

}  // namespace tide::bind

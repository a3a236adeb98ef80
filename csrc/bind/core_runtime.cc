// The job's runtime for Python: start, boundary, limits, suspension, reports.
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "bind/interpreter.h"
#include "bind/status_error.h"
#include "runtime/cuda_job.h"
#include "runtime/runtime.h"

namespace py = pybind11;
using tide::Bytes;
using tide::runtime::CudaJob;
using tide::runtime::Runtime;

namespace {

Runtime& Running() {
  Runtime* runtime = Runtime::Current();
  if (runtime == nullptr)
    tide::bind::Throw(absl::FailedPreconditionError("torchtide is not started in this process"));
  return *runtime;
}

/// While this thread waits for the interpreter's lock, and what a waiting boundary does with it.
class WantsInterpreter {
 public:
  WantsInterpreter() = default;
  ~WantsInterpreter() { Say(false); }
  WantsInterpreter(const WantsInterpreter&) = delete;
  WantsInterpreter& operator=(const WantsInterpreter&) = delete;
  void Begin() { Say(true); }

 private:
  static void Say(bool wanted) {
    if (CudaJob* cuda = CudaJob::Current()) cuda->WantInterpreter(wanted);
  }
};

/// Asked again and again while an iteration waits to begin.
class Wait {
 public:
  explicit Wait(const py::object& on_paused, const py::object& while_waiting = py::none())
      : on_paused_(on_paused), while_waiting_(while_waiting), told_(on_paused.is_none()) {}

  /// Ctrl-C: Python's handlers run, and an exception they raise ends the wait. The first time that
  /// the job is found paused, its user is told.
  bool Interrupted() {
    WantsInterpreter wanting;
    wanting.Begin();
    const tide::bind::WithInterpreter locked;
    if (PyErr_Occurred() != nullptr) return true;  // raised in a call of ours, and not yet told
    try {
      if (!while_waiting_.is_none()) tide::bind::Call(while_waiting_);
      if (!told_ && Running().Report().suspended) {
        told_ = true;
        tide::bind::Call(on_paused_);
      }
    } catch (py::error_already_set& error) {
      error.restore();
      return true;
    }
    return PyErr_CheckSignals() != 0;
  }

 private:
  const py::object on_paused_;  // touched with the GIL held
  const py::object while_waiting_;
  bool told_;
};

/// Runs `step` without the GIL. What a signal's handler raised meanwhile, in a call of ours into
/// Python, comes before the step's own answer.
template <typename Step>
void RunReleased(Step step) {
  absl::Status status;
  {
    WantsInterpreter wanting;  // destroyed after `released` has the lock again
    const tide::bind::WithoutInterpreter released;
    status = step();
    wanting.Begin();
  }
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  tide::bind::ThrowIfError(status);
}

void BeginIteration(int phase, const py::object& on_paused, int64_t step,
                    const py::object& while_waiting) {
  Running().SetStep(step);
  Wait wait(on_paused, while_waiting);
  RunReleased(
      [&] { return Running().BeginIteration(phase, [&wait] { return wait.Interrupted(); }); });
}

void AwaitDevices(const py::object& on_paused) {
  Wait wait(on_paused);
  RunReleased([&] { return Running().AwaitDevices([&wait] { return wait.Interrupted(); }); });
}

void CarryOutOrders(Runtime::Returns returns) {
  RunReleased([&] {
    Running().CarryOutOrders(returns);
    return absl::OkStatus();
  });
}

const char* StatusWord(tide::runtime::GrantStatus status) {
  switch (status) {
    case tide::runtime::GrantStatus::kApplied:
      return "applied";
    case tide::runtime::GrantStatus::kDeferred:
      return "deferred";
    case tide::runtime::GrantStatus::kStale:
      return "stale";
    case tide::runtime::GrantStatus::kConflict:
      return "conflict";
  }
  return "unknown";
}

py::dict GrantDict(const tide::runtime::GrantResult& result) {
  py::dict parts;
  for (const auto& [name, bytes] : result.parts) parts[name.c_str()] = bytes.value();
  py::dict dict;
  dict["status"] = StatusWord(result.status);
  dict["revision"] = result.revision;
  dict["overage_bytes"] = result.overage.value();
  dict["moved_bytes"] = result.moved.value();
  dict["took_ms"] = absl::ToDoubleMilliseconds(result.took);
  dict["parts"] = parts;
  dict["text"] = result.text;
  return dict;
}

/// Puts the order and, when `now`, carries it out on this thread (which must be quiet: between
/// iterations).
py::dict SetLimit(int64_t limit, int64_t guaranteed, bool now) {
  Runtime& runtime = Running();
  auto result = std::make_shared<tide::runtime::GrantResult>();
  auto done = std::make_shared<absl::Notification>();
  tide::runtime::GrantRequest request;
  request.limit = Bytes(limit);
  request.guaranteed = Bytes(guaranteed);
  runtime.orders().PutGrant(request, [result, done](const tide::runtime::GrantResult& answer) {
    *result = answer;
    done->Notify();
  });
  if (now) CarryOutOrders(Runtime::Returns::kToProgram);
  if (!done->HasBeenNotified()) {
    py::dict pending;
    pending["status"] = "deferred";
    pending["text"] = "applies at the next boundary";
    return pending;
  }
  return GrantDict(*result);
}

/// As SetLimit, for suspend and resume. Raises what the move failed with.
void Move(tide::runtime::MoveKind kind, bool now, bool deep = false) {
  Runtime& runtime = Running();
  auto result = std::make_shared<tide::runtime::MoveResult>();
  tide::runtime::MoveRequest request;
  request.kind = kind;
  request.deep = deep;
  runtime.orders().PutMove(request,
                           [result](const tide::runtime::MoveResult& answer) { *result = answer; });
  if (now) {
    // Whoever suspends itself between two iterations knows what it must not touch. The thread that
    // trains begins none meanwhile; it cannot begin to wait unseen, since the GIL is held here.
    const Runtime::Moving moving(runtime);
    CarryOutOrders(Runtime::Returns::kWhenResumed);
  } else {
    runtime.device().Wake(runtime.slot_id());
  }
  if (now) tide::bind::ThrowIfError(result->status);
}

py::dict Report() {
  const tide::runtime::RuntimeReport report = Running().Report();
  const tide::arena::ArenaStats& arena = report.arena;
  py::dict dict;
  dict["limit"] = report.budget.limit.value();
  dict["guaranteed"] = report.budget.guaranteed.value();
  dict["budget_revision"] = report.budget_revision;
  dict["outside"] = report.budget.outside.value();
  dict["committed"] = arena.committed_bytes.value();
  dict["live"] = arena.live_bytes.value();
  dict["cached"] = arena.cached_bytes.value();
  dict["demoted"] = arena.demoted_bytes.value();
  dict["pinned"] = arena.pinned_bytes.value();
  dict["persistent"] = arena.persistent_bytes.value();
  dict["lane_peak"] = arena.lane_peak_bytes.value();
  dict["private_scratch"] = report.budget.private_scratch.value();
  dict["smallest_limit"] = report.smallest.total.value();
  dict["peak"] = report.peak_bytes.value();
  dict["spill_used"] = report.spill_used.value();
  dict["allocations"] = arena.allocations;
  dict["lane_allocations"] = arena.lane_allocations;
  dict["foreign_thread_allocations"] = arena.foreign_thread_allocations;
  dict["privatised_blocks"] = arena.privatised_blocks;
  dict["privatised_bytes"] = arena.privatised_bytes.value();
  dict["demoted_pages_total"] = arena.demoted_pages;
  dict["promoted_pages_total"] = arena.promoted_pages;
  dict["iterations"] = report.iterations;
  const int64_t remaining_ns = Running().RemainingNanos();
  dict["remaining_seconds"] = remaining_ns < 0
                                  ? py::object(py::none())
                                  : py::float_(static_cast<double>(remaining_ns) * 1e-9);
  dict["suspended"] = report.suspended;
  dict["suspend_seconds"] = report.suspend_seconds;
  dict["resume_seconds"] = report.resume_seconds;
  dict["predicted_suspend_seconds"] = report.predicted_suspend_seconds;
  dict["predicted_resume_seconds"] = report.predicted_resume_seconds;
  dict["gate_seconds_last"] = report.gate_seconds_last;
  dict["wait_seconds_total"] = report.wait_seconds_total;
  dict["pace"] = report.pace;
  dict["paced_seconds_total"] = report.paced_seconds_total;
  dict["device_path"] = report.device_path;
  return dict;
}

void BindBoundary(py::module_& module) {
  module.def("begin_iteration", &BeginIteration, py::arg("phase") = 0,
             py::arg("on_paused") = py::none(), py::arg("step") = 0,
             py::arg("while_waiting") = py::none(),
             "Waits for the turn; `on_paused` is called when the job is found paused, "
             "`while_waiting` at least every 100 ms. `step`: the optimizer steps so far. Raises "
             "KeyboardInterrupt.");
  module.def(
      "gang_waits", [] { return Running().GangWaits(); },
      "Whether all processes of the gang wait for its turn, before the same step. For "
      "`while_waiting`.");
  module.def(
      "join_gang",
      [](uint64_t key, int rank, int size, bool meet) {
        if (size < 1 || size > tide::lane::kGangMax || rank < 0 || rank >= size) {
          throw py::value_error(absl::StrCat("rank ", rank, " of ", size, " is in no gang of 1 to ",
                                             tide::lane::kGangMax, " processes"));
        }
        Running().JoinGang({.key = key, .rank = rank, .size = size}, meet);
      },
      py::arg("key"), py::arg("rank"), py::arg("size"), py::arg("meet") = false,
      "From the next boundary on this process has turns together with those of the same key. 0: "
      "with nobody, and none by itself. `meet`: the first boundary waits for all, three seconds.");
  module.def(
      "end_iteration",
      [](bool continuing) { RunReleased([&] { return Running().EndIteration(continuing); }); },
      py::arg("continuing") = false,
      "Passes the turn on. `continuing`: the next iteration begins at once.");
  module.def(
      "expect_iterations", [](int64_t count) { Running().ExpectIterations(count); },
      py::arg("count"), "The job will run `count` more iterations; 0: unknown.");
  module.def("leave", [] {
    RunReleased([] {
      Running().Leave().IgnoreError();
      return absl::OkStatus();
    });
  });
}

}  // namespace

void BindRuntime(py::module_& module) {
  module.def(
      "start",
      [] {
        auto options = tide::bind::ValueOrThrow(tide::runtime::JobOptions::FromOptions());
        return tide::bind::ValueOrThrow(Runtime::Start(options))->name();
      },
      "Starts the runtime of this process from the options; returns the job's name. Idempotent.");
  module.def("started", [] { return Runtime::Current() != nullptr; });
  module.def("api", [] { return py::capsule(Running().api(), TIDE_CORE_API_CAPSULE); });
  BindBoundary(module);
  module.def(
      "carry_out_orders", [] { CarryOutOrders(Runtime::Returns::kWhenResumed); },
      "Carries out what was asked of the job, between two iterations and on the thread of them. "
      "Call await_devices before anything touches a device.");
  module.def("await_devices", &AwaitDevices, py::arg("on_paused") = py::none(),
             "Waits while the job is paused and its device memory away. Raises KeyboardInterrupt.");
  module.def(
      "operators_wanted", [] { return Running().OperatorsWanted(); },
      "What operators are to be reported for until the next boundary: 1 recording, 2 pace, or "
      "both.");
  module.def("set_limit", &SetLimit, py::arg("limit"), py::arg("guaranteed") = 0,
             py::arg("now") = true);
  module.def(
      "suspend", [](bool now, bool deep) { Move(tide::runtime::MoveKind::kSuspend, now, deep); },
      py::arg("now") = true, py::arg("deep") = false);
  module.def(
      "resume", [](bool now) { Move(tide::runtime::MoveKind::kResume, now); },
      py::arg("now") = true);
  module.def("report", &Report);
  module.def("sample", [] { Running().Sample(); });
  module.def("memory_table", [] { return Running().MemoryTable(); });
  module.def("validate", [] { tide::bind::ThrowIfError(Running().arena().Validate()); });
  module.def("owns", [](uintptr_t pointer) {
    return Running().arena().Owns(reinterpret_cast<void*>(pointer));
  });
  module.def(
      "register", [](const std::string& script) { Running().Register(script); }, py::arg("script"),
      "Makes the job known to the daemon; returns at once.");
  module.def(
      "name", [] { return Running().name(); }, "The job's name as the daemon made it unique.");
  module.def(
      "shutdown",
      [](std::optional<int> exit_code) {
        const tide::bind::WithoutInterpreter released;
        if (Runtime::Current() != nullptr) Runtime::Current()->Shutdown(exit_code);
      },
      py::arg("exit_code") = py::none(),
      "Leaves lane and ledgers; the process is about to end, with that code or the one of exit.");
}

// Device memory for Python: start, limit, moves, reports.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "bind/interpreter.h"
#include "bind/status_error.h"
#include "runtime/cuda_job.h"

namespace py = pybind11;
using tide::Bytes;
using tide::pages::DeviceTier;
using tide::runtime::CudaJob;

namespace {

CudaJob& Running(int device) {
  CudaJob* job = CudaJob::Current();
  if (job == nullptr) {
    tide::bind::Throw(absl::FailedPreconditionError(
        "device memory is not managed in this process; call torchtide.cuda.enable()"));
  }
  if (device < 0 || device >= job->device_count()) {
    tide::bind::Throw(absl::InvalidArgumentError(
        absl::StrCat("no device ", device, "; there are ", job->device_count())));
  }
  return *job;
}

/// Runs `function` without the GIL: moves take long and the allocation path never waits for Python.
template <typename Function>
auto Released(Function function) {
  const tide::bind::WithoutInterpreter released;
  return function();
}

/// As Released, for calls that may call Python: what a signal's handler raised there comes first.
template <typename Function>
auto ReleasedWithCalls(Function function) {
  auto result = Released(function);
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  return result;
}

/// Calls Python with the GIL. Ordinary exceptions become an error; what a signal's handler raises
/// (KeyboardInterrupt, SystemExit) waits in the interpreter for the binding that let the GIL go.
template <typename Result>
absl::StatusOr<Result> CallPython(const py::object& function,
                                  const std::function<py::object()>& call,
                                  Result (*convert)(const py::object&)) {
  const tide::bind::WithInterpreter locked;
  if (PyErr_Occurred() != nullptr) return absl::CancelledError("interrupted");
  if (function.is_none()) return Result();
  try {
    return convert(call());
  } catch (py::error_already_set& error) {
    if (error.matches(PyExc_Exception)) return absl::InternalError(error.what());
    error.restore();
    return absl::CancelledError("interrupted");
  }
}

/// For the adapter; a forked child is told to ask the framework's own function, which fails there.
int SegmentAllocate(int device, size_t size, void** out) {
  CudaJob* job = CudaJob::Current();
  if (job == nullptr) return TIDE_NOT_OURS;
  job->AwaitThaw();
  tide::pages::cuda::DevicePointer at = 0;
  const int result = job->segments().Allocate(device, size, &at);
  *out = reinterpret_cast<void*>(at);
  return result;
}

int SegmentRelease(void* at) {
  CudaJob* job = CudaJob::Current();
  if (job == nullptr) return TIDE_NOT_OURS;
  job->AwaitThaw();
  const int result = job->segments().Free(reinterpret_cast<uintptr_t>(at));
  return result == tide::pages::cuda::kNotFound ? TIDE_NOT_OURS : result;
}

void UseStorage(const void* at, size_t size) {
  CudaJob* job = CudaJob::Current();
  if (job == nullptr) return;
  job->BeforeUse({reinterpret_cast<uintptr_t>(at), Bytes(static_cast<int64_t>(size))});
}

void BeginBackward() {
  if (CudaJob* job = CudaJob::Current()) job->EndForward();
}

/// Addresses and sizes that a function of Python names; none when it fails.
std::vector<tide::pages::ColdRange> AskForRanges(const py::object& function) {
  using Ranges = std::vector<std::pair<uint64_t, int64_t>>;
  std::vector<tide::pages::ColdRange> ranges;
  const auto answer = CallPython<Ranges>(
      function, [&] { return tide::bind::Call(function); },
      [](const py::object& value) { return value.cast<Ranges>(); });
  if (!answer.ok()) return ranges;
  for (const auto& [at, size] : *answer) ranges.push_back({at, Bytes(size)});
  return ranges;
}

/// The functions stay for the life of the process: a boundary may come when Python shuts down.
struct FrameworkFunctions {
  py::object capturing, flush, cached, cold, late, layers, watch, unwanted, communicators, stream,
      open_lane, close_lane, deep;
};

using Ranges = std::vector<std::pair<uint64_t, int64_t>>;

std::vector<tide::pages::AddressRange> ToRanges(const Ranges& pairs) {
  std::vector<tide::pages::AddressRange> ranges;
  for (const auto& [at, size] : pairs) ranges.push_back({at, Bytes(size)});
  return ranges;
}

void SetLaneFunctions(const FrameworkFunctions* functions,
                      tide::runtime::CudaFramework& framework) {
  framework.open_lane = [functions](int device) {
    return CallPython<bool>(
               functions->open_lane, [&] { return tide::bind::Call(functions->open_lane, device); },
               [](const py::object&) { return true; })
        .status();
  };
  framework.close_lane = [functions](int device) {
    // An interrupt that waits in the interpreter must not leave survivors on the lane.
    const tide::bind::WithInterpreter locked;
    const py::error_scope waiting;
    return CallPython<tide::pages::LanePool>(
        functions->close_lane, [&] { return tide::bind::Call(functions->close_lane, device); },
        [](const py::object& value) {
          const auto both = value.cast<std::pair<Ranges, Ranges>>();
          return tide::pages::LanePool{ToRanges(both.first), ToRanges(both.second)};
        });
  };
}

void SetLayerFunctions(const FrameworkFunctions* functions,
                       tide::runtime::CudaFramework& framework) {
  framework.layers = [functions] { return AskForRanges(functions->layers); };
  framework.watch = [functions](bool on) {
    CallPython<bool>(
        functions->watch, [&] { return tide::bind::Call(functions->watch, on); },
        [](const py::object&) { return true; })
        .status()
        .IgnoreError();
  };
}

void SetFramework(const py::object& capturing, const py::object& flush, const py::object& cached,
                  const py::object& cold, const py::object& late, const py::object& layers,
                  const py::object& watch, const py::object& unwanted,
                  const py::object& communicators, const py::object& stream,
                  const py::object& open_lane, const py::object& close_lane,
                  const py::object& why_not_deep) {
  const auto* functions = new FrameworkFunctions{
      capturing, flush,         cached, cold,      late,       layers,      watch,
      unwanted,  communicators, stream, open_lane, close_lane, why_not_deep};
  tide::runtime::CudaFramework framework;
  framework.capturing = [functions] {
    const auto answer = CallPython<bool>(
        functions->capturing, [&] { return tide::bind::Call(functions->capturing); },
        [](const py::object& value) { return value.cast<bool>(); });
    return !answer.ok() || *answer;  // unknown: nothing is touched
  };
  framework.flush = [functions](int device) {
    return CallPython<bool>(
               functions->flush, [&] { return tide::bind::Call(functions->flush, device); },
               [](const py::object&) { return true; })
        .status();
  };
  framework.cached = [functions](int device) {
    const auto answer = CallPython<int64_t>(
        functions->cached, [&] { return tide::bind::Call(functions->cached, device); },
        [](const py::object& value) { return value.cast<int64_t>(); });
    return Bytes(answer.ok() ? *answer : 0);
  };
  framework.cold = [functions] { return AskForRanges(functions->cold); };
  framework.late = [functions] { return AskForRanges(functions->late); };
  framework.unwanted = [functions] { return AskForRanges(functions->unwanted); };
  if (!layers.is_none()) SetLayerFunctions(functions, framework);
  if (!communicators.is_none()) {
    framework.communicators = [functions](bool away) {
      // An interrupt that waits in the interpreter must not keep them away: it comes back after.
      const tide::bind::WithInterpreter locked;
      const py::error_scope waiting;
      return CallPython<bool>(
                 functions->communicators,
                 [&] { return tide::bind::Call(functions->communicators, away); },
                 [](const py::object&) { return true; })
          .status();
    };
  }
  framework.stream = [functions](int device) {
    const auto answer = CallPython<uintptr_t>(
        functions->stream, [&] { return tide::bind::Call(functions->stream, device); },
        [](const py::object& value) { return value.cast<uintptr_t>(); });
    return reinterpret_cast<tide::pages::cuda::Stream>(answer.ok() ? *answer : 0);
  };
  framework.why_not_deep = [functions]() -> std::string {
    const auto answer = CallPython<std::string>(
        functions->deep, [&] { return tide::bind::Call(functions->deep); },
        [](const py::object& value) { return value.cast<std::string>(); });
    return answer.ok() ? *answer : std::string(answer.status().message());
  };
  if (!open_lane.is_none()) SetLaneFunctions(functions, framework);
  Running(0).set_framework(std::move(framework));
}

py::dict Boundary(int device) {
  CudaJob& job = Running(device);
  const auto result = ReleasedWithCalls([&] { return job.AtBoundary(device); });
  py::dict dict;
  dict["asked"] = result.asked.value();
  dict["given"] = result.given.value();
  return dict;
}

py::dict ReportDict(int device) {
  CudaJob& job = Running(device);
  const auto report = ReleasedWithCalls([&] {
    job.AskForCached(device);
    return job.Report(device);
  });
  py::dict dict;
  dict["name"] = report.name;
  dict["uuid"] = report.uuid;
  dict["table_path"] = report.table_path;
  dict["total"] = report.total.value();
  dict["free"] = report.free.value();
  dict["outside"] = report.outside.value();
  dict["limit"] = report.limit.value();
  dict["capacity"] = report.capacity.value();
  dict["used_by_jobs"] = report.used.value();
  dict["asked"] = report.asked.value();
  dict["suspended"] = job.suspended(device);
  dict["deep"] = job.DeepWords();
  dict["device"] = report.counts.device.value();
  dict["spare"] = report.counts.spare.value();
  dict["coming"] = report.counts.room.value();
  dict["late_waits_total"] = job.late_waits();
  dict["host_mapped"] = report.counts.host_mapped.value();
  dict["host_copy"] = report.counts.host_copy.value();
  dict["file"] = report.counts.file.value();
  dict["dropped"] = report.counts.dropped.value();
  dict["lane"] = report.counts.lane.value();
  dict["lane_chunks"] = report.chunks.value();
  dict["lanes_of_all"] = report.lanes.value();
  dict["lane_pages_entered_total"] = report.counts.to_lane;
  dict["lane_pages_left_total"] = report.counts.from_lane;
  dict["lane_settle_ns_last"] = report.settle_ns;
  dict["predicted_suspend_s"] = report.predicted_suspend_s;
  dict["predicted_resume_s"] = report.predicted_resume_s;
  dict["prefetched_bytes_total"] = report.prefetched.value();
  dict["prefetch_overlap_ns_total"] = report.prefetch_ns;
  dict["reserved"] = report.counts.reserved().value();
  dict["creates"] = report.counts.creates;
  dict["reused"] = report.counts.reused;
  dict["refused"] = report.counts.refused;
  dict["demoted_pages_total"] = report.counts.demoted;
  dict["promoted_pages_total"] = report.counts.promoted;
  return dict;
}

py::dict ShrinkDict(const tide::runtime::ShrinkResult& result) {
  py::dict dict;
  dict["moved"] = result.moved.value();
  dict["short_by"] = result.short_by.value();
  dict["reason"] = result.reason;
  return dict;
}

py::dict MakeRoom(int device, int64_t need) {
  CudaJob& job = Running(device);
  return ShrinkDict(tide::bind::ValueOrThrow(
      ReleasedWithCalls([&] { return job.MakeRoom(device, Bytes(need)); })));
}

int64_t Suspend(int device, bool to_file) {
  CudaJob& job = Running(device);
  const DeviceTier tier = to_file ? DeviceTier::kFile : DeviceTier::kHostCopy;
  return tide::bind::ValueOrThrow(Released([&] { return job.Suspend(device, tier); })).value();
}

void BindCold(py::module_& module) {
  module.def("cuda_host_mapping", [] {
    CudaJob& job = Running(0);
    return Released([&] { return job.pages().host_mapping(); });
  });
  module.def(
      "cuda_look_up_cold",
      [] {
        CudaJob& job = Running(0);
        Released([&] { return job.LookUpCold(); });
      },
      "What the framework calls cold now may leave when an allocation is refused.");
}

void BindOffers(py::module_& module) {
  module.def(
      "cuda_share",
      [](int device, int percent) {
        CudaJob& job = Running(device);
        const auto share =
            tide::bind::ValueOrThrow(Released([&] { return job.shares().Share(device, percent); }));
        return std::pair(reinterpret_cast<uintptr_t>(share.stream), share.multiprocessors);
      },
      py::arg("device"), py::arg("percent"),
      "A stream on a share of the device's multiprocessors, and how many these are.");
  module.def(
      "cuda_shareable",
      [](int device) {
        CudaJob& job = Running(device);
        return tide::bind::ValueOrThrow(Released([&] { return job.shares().Shareable(device); }));
      },
      "How many multiprocessors of a device could be shared.");
  module.def("cuda_offers_checkpoint", [] { return Running(0).OffersCheckpoint(); });
  module.def(
      "cuda_set_checkpoint_command",
      [](std::vector<std::string> command) { Running(0).SetCheckpointCommand(std::move(command)); },
      py::arg("command"), "What starts the helper that has the driver checkpoint this process.");
  module.def(
      "cuda_pause_deeply",
      [] {
        CudaJob& job = Running(0);
        return ReleasedWithCalls([&] { return job.PauseDeeply(); });
      },
      "After a suspension: why the contexts stay, or nothing; then cuda_resume brings them back.");
  module.def(
      "cuda_frozen",
      [] {
        const CudaJob* job = CudaJob::Current();
        return job != nullptr && job->frozen();
      },
      "Whether the contexts of this process are away, so that its CUDA calls wait.");
  module.def(
      "cuda_suspended_devices",
      [] {
        std::vector<int> devices;
        const CudaJob* job = CudaJob::Current();
        for (int i = 0; job != nullptr && i < job->device_count(); ++i) {
          if (job->suspended(i)) devices.push_back(i);
        }
        return devices;
      },
      "Devices that all pages of this process have left.");
}

void BindFramework(py::module_& module) {
  module.def(
      "cuda_take_lost",
      [](int device) {
        Ranges pairs;
        CudaJob* const job = CudaJob::Current();
        for (int i = 0; job != nullptr && i < job->device_count(); ++i) {
          if (device >= 0 && i != device) continue;
          for (const auto& range : job->TakeLost(i))
            pairs.emplace_back(range.at, range.size.value());
        }
        return pairs;
      },
      py::arg("device"),
      "Addresses and sizes of pages that were dropped since the last call, and are back; -1: of "
      "all "
      "devices.");
  module.def(
      "cuda_set_framework", &SetFramework, py::arg("capturing"), py::arg("flush"),
      py::arg("cached"), py::arg("cold"), py::arg("late"), py::arg("layers"), py::arg("watch"),
      py::arg("unwanted"), py::arg("communicators"), py::arg("stream"), py::arg("open_lane"),
      py::arg("close_lane"), py::arg("why_not_deep"),
      "What PyTorch does at a boundary: says whether a graph is being captured, gives the "
      "cached memory of a device back, says how much that would be, names cold ranges and those "
      "that may return while an "
      "iteration runs (last, and layer by layer while operators say what they use), names what may "
      "lose its contents, sends the "
      "memory of communicators away or brings it back, names the "
      "stream that iterations run on, routes allocations to the pool of a lane, says what is "
      "alive there, and why the process must not be checkpointed. None for a function: that is not "
      "done.");
}

}  // namespace

void BindCuda(py::module_& module) {
  BindOffers(module);
  BindCold(module);
  BindFramework(module);
  module.def(
      "cuda_start",
      [](const std::string& name) {
        return tide::bind::ValueOrThrow(Released([&] { return CudaJob::Start(name); }))
            ->device_count();
      },
      py::arg("name"), "Opens the driver and the devices' ledgers; returns how many devices.");
  module.def("cuda_started", [] { return CudaJob::Current() != nullptr; });
  module.def("cuda_api", [] {
    // For the adapter: the table lives as long as the process, as what it points to.
    static TideCoreApi* const api = new TideCoreApi{};
    CudaJob& job = Running(0);
    api->version = TIDE_CORE_API_VERSION;
    api->struct_size = sizeof(TideCoreApi);
    api->cuda_calls = job.adapter_calls().data();
    api->cuda_call_count = static_cast<int32_t>(job.adapter_calls().size());
    api->segment_allocate = &SegmentAllocate;
    api->segment_release = &SegmentRelease;
    api->use_storage = &UseStorage;
    api->backward = &BeginBackward;
    return py::capsule(static_cast<const void*>(api), TIDE_CORE_API_CAPSULE);
  });
  module.def(
      "cuda_set_limit",
      [](int device, int64_t limit) {
        return Running(device).SetLimit(device, Bytes(limit)).value();
      },
      py::arg("device"), py::arg("limit"), "Returns by how many bytes the job is over it.");
  module.def(
      "cuda_restore",
      [](int device) {
        CudaJob& job = Running(device);
        return tide::bind::ValueOrThrow(Released([&] { return job.Restore(device); })).value();
      },
      "Brings pages back as far as they fit; returns the bytes that are still away.");
  module.def("cuda_suspend", &Suspend, py::arg("device"), py::arg("to_file") = false);
  module.def("cuda_resume", [](int device) {
    CudaJob& job = Running(device);
    tide::bind::ThrowIfError(Released([&] { return job.Resume(device); }));
  });
  module.def(
      "cuda_finish_return",
      [] {
        CudaJob* job = CudaJob::Current();
        if (job != nullptr) tide::bind::ThrowIfError(Released([&] { return job->FinishReturn(); }));
      },
      "Waits for pages that return while an iteration runs; any thread.");
  module.def("cuda_end_forward", &BeginBackward,
             "What an iteration used until now is the order in which its layers return.");
  module.def("cuda_make_room", &MakeRoom, py::arg("device"), py::arg("need"),
             "Waits for the device, flushes PyTorch's cache and moves cold pages.");
  module.def("cuda_boundary", &Boundary, py::arg("device"));
  module.def("cuda_retire", [] {
    if (CudaJob* job = CudaJob::Current()) job->Retire();
  });
  module.def("cuda_report", &ReportDict, py::arg("device"));
  module.def("cuda_memory_table", [](int device) { return Running(device).MemoryTable(device); });
  module.def("cuda_validate", [] { tide::bind::ThrowIfError(Running(0).pages().Validate()); });
}

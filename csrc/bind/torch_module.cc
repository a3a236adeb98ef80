// The adapter module of one torch version: thin, no state of its own, reaches the core through its
// C table.
#include <pybind11/pybind11.h>

#include <string>

#include "runtime/core_api.h"
#include "torch_hooks/cpu_allocator.h"
#include "torch_hooks/cuda_segments.h"
#include "torch_hooks/cuda_slots.h"
#include "torch_hooks/op_gate.h"

namespace py = pybind11;

namespace {

const TideCoreApi* Api(const py::capsule& capsule) {
  if (capsule.name() == nullptr || std::string(capsule.name()) != TIDE_CORE_API_CAPSULE) {
    throw py::value_error("not the function table of torchtide's core");
  }
  return capsule.get_pointer<const TideCoreApi>();
}

// Operators run without the interpreter's lock, with few exceptions, in which nobody may wait.
bool InterpreterIsFree() { return PyGILState_Check() == 0; }

}  // namespace

PYBIND11_MODULE(TIDE_TORCH_MODULE, module) {
  module.doc() = "torchtide's adapter to one version of PyTorch (CPU allocator, operator gate).";
  module.def(
      "install_cpu_allocator",
      [](const py::capsule& api) { return tide::torch_hooks::InstallCpuAllocator(Api(api)); },
      "Sets the CPU allocator; returns an empty string or the reason why not.");
  module.def(
      "install_cuda_slots",
      [](const py::capsule& api) { return tide::torch_hooks::InstallCudaSlots(Api(api)); },
      "Points PyTorch's table of driver calls at the core; returns an empty string or why not.");
  module.def("remove_cuda_slots", &tide::torch_hooks::RemoveCudaSlots);
  module.def("cuda_slots_installed", &tide::torch_hooks::CudaSlotsInstalled);
  module.def(
      "redirect_cuda_malloc",
      [](const py::capsule& api) { return tide::torch_hooks::RedirectCudaMalloc(Api(api)); },
      "Points the allocator's cudaMalloc and cudaFree at the core; an empty string or why not.");
  module.def("restore_cuda_malloc", &tide::torch_hooks::RestoreCudaMalloc);
  module.def("cuda_malloc_redirected", &tide::torch_hooks::CudaMallocRedirected);
  module.def(
      "serve_pool", [](const py::capsule& api) { return tide::torch_hooks::ServePool(Api(api)); },
      "Lets this library's tide_pool_allocate and tide_pool_free reach the core; an empty string "
      "or why not.");
  module.def("cpu_allocator_installed", &tide::torch_hooks::CpuAllocatorInstalled);
  module.def(
      "arm_op_gate",
      [](const py::capsule& api, int wanted) {
        tide::torch_hooks::ArmOpGate(Api(api), wanted, &InterpreterIsFree);
      },
      "Reports operators for what is wanted of them (TideOperators, as bits); 0 for nothing.");
  module.def(
      "arm_use_gate",
      [](const py::capsule& api, bool on) { tide::torch_hooks::ArmUseGate(Api(api), on); },
      "Reports what operators use on devices, and where a backward begins.");
}

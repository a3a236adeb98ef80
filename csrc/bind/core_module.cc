// torchtide._core: everything that needs no torch.
#include <pybind11/pybind11.h>

#include "bind/interpreter.h"

namespace py = pybind11;

void BindBase(py::module_& module);
void BindRuntime(py::module_& module);
void BindClient(py::module_& module);
void BindSim(py::module_& module);
void BindElastic(py::module_& module);
void BindCuda(py::module_& module);

PYBIND11_MODULE(_core, module) {
  module.doc() =
      "torchtide's core without torch: options, the job's runtime, the client of the daemon, the "
      "simulator.";
  BindBase(module);
  BindRuntime(module);
  BindClient(module);
  BindSim(module);
  BindElastic(module);
  BindCuda(module);
  py::module_::import("atexit").attr("register")(
      py::cpp_function([] { tide::bind::ends_interpreter = true; }));
}

// A cluster policy that is written in Python, for the simulator.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "sched/cluster_policy.h"
#include "sim/trace.h"

namespace tide::bind {

/// Calls `object.decide(view)` at each event with the GIL held. An exception of it is set as
/// Python's, and the policy does nothing from then on; `failed` (borrowed) says so, and ends the
/// replay.
std::unique_ptr<sched::ClusterPolicy> MakePythonPolicy(pybind11::object object,
                                                       const sim::Trace& trace, bool& failed);

/// The classes JobRow and View of `module`.
void BindPythonPolicy(pybind11::module_& module);

}  // namespace tide::bind

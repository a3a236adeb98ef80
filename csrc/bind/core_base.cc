// Sizes, options, the runtime directory, what is to be told to the user.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/log_queue.h"
#include "base/options.h"
#include "bind/status_error.h"
#include "shm/runtime_dir.h"

namespace py = pybind11;

namespace {

tide::LogQueue* told = nullptr;  // with the GIL held; never destroyed, since threads log to the end
pid_t told_in = 0;

/// From now on warnings wait for `TakeLog`. A forked child that becomes a job has its own.
void KeepLog() {
  if (told_in == getpid()) return;
  told_in = getpid();
  told = new tide::LogQueue(tide::RealClock());
  tide::SetLogSink(
      [queue = told](tide::LogLevel level, const std::string& line) { queue->Push(level, line); });
}

py::list TakeLog() {
  py::list lines;
  if (told == nullptr) return lines;
  for (const tide::LogQueue::Line& line : told->Take()) {
    // A message may have a name in it that is no UTF-8.
    lines.append(py::make_tuple(
        line.level == tide::LogLevel::kError ? "error" : "warning",
        py::reinterpret_steal<py::str>(PyUnicode_DecodeUTF8(
            line.text.data(), static_cast<Py_ssize_t>(line.text.size()), "replace"))));
  }
  return lines;
}

}  // namespace

void BindBase(py::module_& module) {
  module.def(
      "parse_bytes",
      [](const std::string& text) {
        return tide::bind::ValueOrThrow(tide::ParseBytes(text)).value();
      },
      py::arg("text"), "Reads a size such as 1.5GiB, 300MB or 4096. Raises ValueError.");
  module.def(
      "format_bytes", [](int64_t bytes) { return tide::FormatBytes(tide::Bytes(bytes)); },
      py::arg("bytes"), "Three digits and a binary unit: 1.5 GiB.");
  module.def("runtime_dir", &tide::shm::RuntimeDir,
             "Where the socket and the device table of this user live.");
  module.def(
      "set_option",
      [](const std::string& name, const std::string& value, const std::string& origin) {
        tide::bind::ThrowIfError(tide::SetOption(name, value, origin));
      },
      py::arg("name"), py::arg("value"), py::arg("origin") = "call",
      "Overrides an option. Raises KeyError for unknown names.");
  module.def(
      "get_option",
      [](const std::string& name) { return tide::bind::ValueOrThrow(tide::GetOption(name)).text; },
      py::arg("name"), "Value of an option as text. Raises KeyError.");
  module.def("keep_log", &KeepLog,
             "From now on warnings of the library wait for `take_log`. Idempotent.");
  module.def(
      "take_log", &TakeLog,
      "Warnings since the last call, the oldest first: pairs of \"warning\" or \"error\" and a "
      "line \"event=... key=value ...\". One that goes on comes once a minute.");
  module.def(
      "options",
      [] {
        py::list result;
        for (const tide::OptionInfo& info : tide::OptionTable()) {
          const auto value = tide::GetOption(info.name);
          py::dict row;
          row["name"] = info.name;
          row["variable"] = info.variable;
          row["value"] = value.ok() ? value->text : "";
          row["origin"] = value.ok() ? value->origin : "";
          row["default"] = info.default_value;
          row["unit"] = info.unit;
          row["reason"] = info.reason;
          result.append(row);
        }
        return result;
      },
      "Every option with its value and where it comes from.");
}

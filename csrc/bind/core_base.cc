// Sizes, options, the runtime directory.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "base/bytes.h"
#include "base/log.h"
#include "base/options.h"
#include "bind/status_error.h"
#include "shm/runtime_dir.h"

namespace py = pybind11;

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

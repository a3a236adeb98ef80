// The daemon's client for Python: a part of torchtide._core.
#include <pybind11/pybind11.h>

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "bind/interpreter.h"
#include "bind/status_error.h"
#include "wire/client.h"

namespace py = pybind11;

namespace tide {
namespace {

/// The exception types of this module; a reference each, kept for the life of the interpreter.
struct Errors {
  PyObject* daemon_unavailable = nullptr;
  PyObject* protocol_error = nullptr;
};
Errors errors;  // set once while the module is imported, under the GIL

/// Turns a status into the Python exception of its code. With the GIL held.
[[noreturn]] void Raise(const absl::Status& status) {
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();  // an interrupt came first
  PyObject* type = PyExc_RuntimeError;
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      type = errors.daemon_unavailable;
      break;
    case absl::StatusCode::kDeadlineExceeded:
      type = PyExc_TimeoutError;
      break;
    case absl::StatusCode::kPermissionDenied:
      type = PyExc_PermissionError;
      break;
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kInvalidArgument:
      type = errors.protocol_error;
      break;
    case absl::StatusCode::kResourceExhausted:
      type = PyExc_ConnectionError;
      break;
    default:
      break;
  }
  PyErr_SetString(type, std::string(status.message()).c_str());
  throw py::error_already_set();
}

/// Client for Python: one request at a time, whatever the thread.
class PyClient {
 public:
  PyClient(const std::string& path, double timeout_s) {
    absl::StatusOr<std::unique_ptr<wire::Client>> client;
    {
      const bind::WithoutInterpreter released;
      client = wire::Client::Connect(path, absl::Seconds(timeout_s));
    }
    if (!client.ok()) Raise(client.status());
    client_ = *std::move(client);
    client_->set_interrupt(&bind::CheckSignals);
  }

  py::tuple Request(const std::string& kind, const py::bytes& body, double timeout_s) {
    const auto number = wire::FrameKindFromName(kind);
    if (!number) throw py::value_error("no frame kind is named \"" + kind + "\"");
    wire::Frame frame{*number, 0, 0, std::string(body)};
    absl::StatusOr<wire::Frame> reply;
    {
      const bind::WithoutInterpreter released;
      absl::MutexLock lock(&mu_);
      if (client_) {
        reply = client_->Request(std::move(frame), absl::Seconds(timeout_s));
      } else {
        reply = Closed();
      }
    }
    if (!reply.ok()) Raise(reply.status());
    return Pair(*reply);
  }

  py::object Next(double timeout_s) {
    absl::StatusOr<std::optional<wire::Frame>> frame;
    {
      const bind::WithoutInterpreter released;
      absl::MutexLock lock(&mu_);
      if (client_) {
        frame = client_->Next(absl::Seconds(timeout_s));
      } else {
        frame = Closed();
      }
    }
    if (!frame.ok()) Raise(frame.status());
    if (!*frame) return py::none();
    return Pair(**frame);
  }

  void Close() {
    const bind::WithoutInterpreter released;
    absl::MutexLock lock(&mu_);
    client_.reset();
  }

 private:
  static absl::Status Closed() { return absl::UnavailableError("the client is closed"); }
  static py::tuple Pair(const wire::Frame& frame) {
    return py::make_tuple(py::str(std::string(wire::FrameKindName(frame.kind))),
                          py::bytes(frame.body));
  }

  absl::Mutex mu_;
  std::unique_ptr<wire::Client> client_ ABSL_GUARDED_BY(mu_);
};

}  // namespace
}  // namespace tide

/// Adds Client and the exception types DaemonUnavailable and ProtocolError to `module`.
void BindClient(py::module_& module) {
  using tide::errors;
  using tide::PyClient;
  errors.daemon_unavailable =
      PyErr_NewException("torchtide._core.DaemonUnavailable", PyExc_ConnectionError, nullptr);
  errors.protocol_error =
      PyErr_NewException("torchtide._core.ProtocolError", PyExc_RuntimeError, nullptr);
  module.attr("DaemonUnavailable") = py::handle(errors.daemon_unavailable);
  module.attr("ProtocolError") = py::handle(errors.protocol_error);

  py::class_<PyClient>(module, "Client",
                       "A connection with tided: one request at a time, from any thread.")
      .def(py::init<const std::string&, double>(), py::arg("path"), py::arg("timeout_s") = 5.0,
           "Connects to the socket at `path`. Raises DaemonUnavailable, TimeoutError, "
           "ProtocolError.")
      .def("request", &PyClient::Request, py::arg("kind"), py::arg("body"),
           py::arg("timeout_s") = 30.0,
           "Sends a MessagePack body as a frame of `kind` and returns (kind, body) of the answer.")
      .def("next", &PyClient::Next, py::arg("timeout_s"),
           "The next followed event as (kind, body), or None when none comes in time.")
      .def("close", &PyClient::Close);
}

// The one table that turns status codes into Python exceptions.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tide::bind {

/// InvalidArgument: ValueError, NotFound: KeyError, PermissionDenied: PermissionError,
/// ResourceExhausted: MemoryError, DeadlineExceeded: TimeoutError, Unavailable: ConnectionError,
/// Unimplemented: NotImplementedError, anything else: RuntimeError. Call with the GIL held.
[[noreturn]] void Throw(const absl::Status& status);

/// Lets Ctrl-C end a wait: Cancelled when a signal's handler has raised, and when the interpreter
/// ends: nobody gets the answer of a thread that waits then. Called without the GIL.
absl::Status CheckSignals();

inline void ThrowIfError(const absl::Status& status) {
  if (!status.ok()) Throw(status);
}

template <typename T>
T ValueOrThrow(absl::StatusOr<T> value) {
  if (!value.ok()) Throw(value.status());
  return *std::move(value);
}

}  // namespace tide::bind

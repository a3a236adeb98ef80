// Small helpers around absl::Status: propagation and errno.
#pragma once

#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

#define TIDE_RETURN_IF_ERROR(expr)               \
  do {                                           \
    absl::Status tide_status_ = (expr);          \
    if (!tide_status_.ok()) return tide_status_; \
  } while (false)

#define TIDE_CONCAT_(a, b) a##b
#define TIDE_CONCAT(a, b) TIDE_CONCAT_(a, b)
#define TIDE_ASSIGN_OR_RETURN(lhs, expr) \
  TIDE_ASSIGN_OR_RETURN_(TIDE_CONCAT(tide_or_, __LINE__), lhs, expr)
#define TIDE_ASSIGN_OR_RETURN_(tmp, lhs, expr) \
  auto tmp = (expr);                           \
  if (!tmp.ok()) return tmp.status();          \
  lhs = *std::move(tmp)

namespace tide {

/// "WHAT: strerror(errno)" with the code that errno maps to (NotFound, ResourceExhausted, ...).
inline absl::Status ErrnoStatus(absl::string_view what, int error = errno) {
  return absl::Status(absl::ErrnoToStatusCode(error), absl::StrCat(what, ": ", strerror(error)));
}

}  // namespace tide

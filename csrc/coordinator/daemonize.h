// Becoming a daemon: one a folder, in a session of its own, its start reported to whoever started
// it.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"

namespace tide::coordinator {

/// The lock `runtime_dir`/tided.lock, or nothing when another daemon has it and answers within
/// `patience`. Errors: Unavailable when it has the lock and does not answer.
absl::StatusOr<std::optional<UniqueFd>> BecomeTheOnlyOne(const std::string& runtime_dir,
                                                         absl::Duration patience);

/// Forks twice and runs `body` in the grandchild, in its own session, with `/` as folder and both
/// outputs appended to `runtime_dir`/tided.log; descriptors other than `kept_fd` are closed.
/// Returns in the parent alone, once the body has called the function it is given, with an error
/// when it ended before.
absl::Status RunDetached(
    const std::string& runtime_dir, int kept_fd,
    const std::function<absl::Status(const std::function<void()>& ready)>& body);

}  // namespace tide::coordinator

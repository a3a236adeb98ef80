// The private directory where the socket and the device tables of a user live.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace tide::shm {

/// Option runtime_dir, else $XDG_RUNTIME_DIR/torchtide, else /tmp/torchtide-UID. Not created here.
std::string RuntimeDir();

/// Opens `path`, creating it with mode 0700 when it is missing. Errors: PermissionDenied when it is
/// a symbolic link, belongs to another user or is open to others; NotFound when its parent is
/// missing.
absl::StatusOr<UniqueFd> OpenRuntimeDir(const std::string& path);

}  // namespace tide::shm

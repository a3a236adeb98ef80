// Finds, creates and checks the runtime directory.
#include "shm/runtime_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/options.h"
#include "base/status.h"

namespace tide::shm {

std::string RuntimeDir() {
  std::string stated = TextOption("runtime_dir");
  if (!stated.empty()) return stated;
  const std::string session = Environment("XDG_RUNTIME_DIR");
  if (!session.empty()) return absl::StrCat(session, "/torchtide");
  return absl::StrCat("/tmp/torchtide-", geteuid());
}

absl::StatusOr<UniqueFd> OpenRuntimeDir(const std::string& path) {
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return ErrnoStatus(absl::StrCat("cannot create the runtime directory ", path,
                                    " (set TIDE_RUNTIME_DIR to a directory of your own)"));
  }
  UniqueFd dir(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!dir) {
    const int error = errno;
    // ENOTDIR is what Linux answers for a symbolic link under O_DIRECTORY|O_NOFOLLOW.
    if (error == ELOOP || error == ENOTDIR) {
      return absl::PermissionDeniedError(absl::StrCat(
          path, " is a symbolic link or not a directory; remove it or set TIDE_RUNTIME_DIR"));
    }
    return ErrnoStatus(absl::StrCat("cannot open the runtime directory ", path), error);
  }
  struct stat info;
  if (fstat(dir.get(), &info) != 0) return ErrnoStatus(absl::StrCat("cannot look at ", path));
  if (info.st_uid != geteuid()) {
    return absl::PermissionDeniedError(absl::StrCat(path, " belongs to user ", info.st_uid,
                                                    ", not to user ", geteuid(),
                                                    "; set TIDE_RUNTIME_DIR"));
  }
  if ((info.st_mode & 0077) != 0) {
    return absl::PermissionDeniedError(
        absl::StrFormat("%s has mode %04o and is open to other users; run: chmod 700 %s", path,
                        info.st_mode & 07777, path));
  }
  return dir;
}

}  // namespace tide::shm

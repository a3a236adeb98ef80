// A file descriptor with one owner.
#pragma once

#include <sys/stat.h>
#include <unistd.h>

#include <utility>

namespace tide {

/// Closes its descriptor at destruction; move-only.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

/// Which file a descriptor is of. A program may close descriptors that are not its own
/// (os.closerange, as daemons do) and have others under their numbers; those are left alone.
class FileIdentity {
 public:
  explicit FileIdentity(int fd) : known_(fstat(fd, &file_) == 0) {}
  /// Whether the descriptor `fd` is of this file.
  bool IsAt(int fd) const {
    struct stat now;
    return known_ && fstat(fd, &now) == 0 && now.st_dev == file_.st_dev &&
           now.st_ino == file_.st_ino;
  }

 private:
  struct stat file_ = {};
  bool known_;
};

}  // namespace tide

// Opens the device table's file: creation, checks of owner, boot and version, mapping.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "base/log.h"
#include "base/options.h"
#include "base/status.h"
#include "shm/device_file.h"
#include "shm/slot_table.h"

namespace tide::shm {
namespace {

constexpr int kDeviceNameBytes = 32;

absl::StatusOr<std::string> BootId() {
  UniqueFd file(open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
  char text[sizeof(TableHeader::boot_id)] = {};
  if (!file || read(file.get(), text, sizeof(text) - 1) <= 0)
    return ErrnoStatus("cannot read the boot id");
  return std::string(absl::StripSuffix(text, "\n"));
}

absl::Status CheckDeviceName(absl::string_view device) {
  bool good = !device.empty() && device.size() <= kDeviceNameBytes;
  for (char c : device) good = good && (absl::ascii_isalnum(c) || c == '_');
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("device name \"", device, "\" must be 1 to 32 letters, digits or underscores"));
}

absl::StatusOr<UniqueFd> OpenTableFile(int dir, const std::string& name, const std::string& path) {
  UniqueFd fd(
      openat(dir, name.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600));
  if (!fd && errno == ELOOP) {
    return absl::PermissionDeniedError(absl::StrCat(path, " is a symbolic link; remove it"));
  }
  if (!fd) return ErrnoStatus(absl::StrCat("cannot open ", path));
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return ErrnoStatus(absl::StrCat("cannot look at ", path));
  if (!S_ISREG(info.st_mode)) {
    return absl::PermissionDeniedError(absl::StrCat(path, " is not a regular file; remove it"));
  }
  if (info.st_uid != geteuid()) {
    return absl::PermissionDeniedError(
        absl::StrCat(path, " belongs to user ", info.st_uid, ", not to user ", geteuid()));
  }
  if ((info.st_mode & 0077) != 0) {
    return absl::PermissionDeniedError(
        absl::StrFormat("%s has mode %04o and is open to other users; run: chmod 600 %s", path,
                        info.st_mode & 07777, path));
  }
  return fd;
}

// Under the lock. A file of size 0 is new; another size was written by another version.
absl::Status SizeTableFile(int fd, const std::string& path) {
  struct stat info;
  if (fstat(fd, &info) != 0) return ErrnoStatus(absl::StrCat("cannot look at ", path));
  if (info.st_size != 0 && info.st_size != sizeof(DeviceTable)) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, " has ", info.st_size, " bytes, this version of torchtide uses ", sizeof(DeviceTable),
        ": end the jobs of the other version and remove the file, or set TIDE_RUNTIME_DIR"));
  }
  // Allocated now, so that a full file system is an error here and not a SIGBUS later. Idempotent.
  if (const int error = posix_fallocate(fd, 0, sizeof(DeviceTable)); error != 0) {
    return ErrnoStatus(absl::StrCat("no room for ", sizeof(DeviceTable), " bytes at ", path),
                       error);
  }
  return absl::OkStatus();
}

// Under the lock, so nobody else is creating or claiming.
absl::Status ValidateOrInitialise(DeviceTable& table, const std::string& boot_id,
                                  const std::string& path) {
  // acquire: pairs with the release of the magic by the creator
  const uint64_t magic = table.header.magic.load(std::memory_order_acquire);
  if (magic != 0 && magic != kTableMagic) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is not a device table; remove it"));
  }
  const uint32_t version =
      table.header.version.load(std::memory_order_relaxed);  // relaxed: under the lock
  const uint32_t slot_bytes = table.header.slot_bytes.load(std::memory_order_relaxed);
  const absl::string_view old_boot(table.header.boot_id,
                                   strnlen(table.header.boot_id, sizeof(table.header.boot_id)));
  if (magic == kTableMagic && old_boot == boot_id) {
    if (version == kTableVersion && slot_bytes == sizeof(JobSlot)) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(
        path, " has layout version ", version, " with slots of ", slot_bytes,
        " bytes, this torchtide has version ", kTableVersion, " with ", sizeof(JobSlot),
        ": end the jobs of the other version and remove the file, or set TIDE_RUNTIME_DIR"));
  }
  // New, torn at creation (the magic is written last), or of a boot whose processes are all gone.
  InitialiseTable(table, boot_id.c_str());
  table.header.capacity_bytes.store(BytesOption("device.capacity"), std::memory_order_relaxed);
  Log(LogLevel::kInfo, absl::StrCat("event=device_table_created path=", path,
                                    " reason=", magic == 0 ? "new" : "other_boot"));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceFile>> DeviceFile::Open(const std::string& runtime_dir,
                                                             absl::string_view device) {
  TIDE_RETURN_IF_ERROR(CheckDeviceName(device));
  TIDE_ASSIGN_OR_RETURN(const UniqueFd dir, OpenRuntimeDir(runtime_dir));
  const std::string name = absl::StrCat("device-", device);
  const std::string path = absl::StrCat(runtime_dir, "/", name);
  TIDE_ASSIGN_OR_RETURN(UniqueFd fd, OpenTableFile(dir.get(), name, path));
  TIDE_ASSIGN_OR_RETURN(const FileLock lock, FileLock::Acquire(fd.get(), kLockTimeout));
  TIDE_RETURN_IF_ERROR(SizeTableFile(fd.get(), path));
  TIDE_ASSIGN_OR_RETURN(const std::string boot_id, BootId());
  void* address =
      mmap(nullptr, sizeof(DeviceTable), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (address == MAP_FAILED) return ErrnoStatus(absl::StrCat("cannot map ", path));
  auto file = std::unique_ptr<DeviceFile>(
      new DeviceFile(path, std::move(fd), static_cast<DeviceTable*>(address)));
  TIDE_RETURN_IF_ERROR(ValidateOrInitialise(file->table(), boot_id, path));
  return file;
}

DeviceFile::DeviceFile(std::string path, UniqueFd fd, DeviceTable* table)
    : path_(std::move(path)), fd_(std::move(fd)), table_(table) {}

DeviceFile::~DeviceFile() { munmap(table_, sizeof(DeviceTable)); }

}  // namespace tide::shm

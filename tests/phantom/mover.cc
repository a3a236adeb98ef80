#include "phantom/mover.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "phantom/settings.h"

namespace phantom {
namespace {

constexpr size_t kBuffer = size_t{4} << 20;

/// Calls `piece(fd, offset, size)` for each mapping under the range.
template <typename Piece>
cuda::Result EachPiece(Memory& memory, Address at, size_t size, const char* who, Piece piece) {
  while (size > 0) {
    Address base = 0;
    const Mapping* mapping = memory.At(at, &base);
    if (mapping == nullptr || !mapping->accessible) {
      Complain("%s touches device address %llx %s", who, static_cast<unsigned long long>(at),
               mapping == nullptr ? "that is not mapped" : "before cuMemSetAccess");
      return cuda::kIllegalAddress;
    }
    const size_t offset = at - base;
    const size_t length = std::min(size, mapping->size - offset);
    if (!piece(mapping->physical->fd, offset, length)) {
      Complain("%s: %s", who, std::strerror(errno));
      return cuda::kOperatingSystem;
    }
    at += length;
    size -= length;
  }
  return cuda::kSuccess;
}

bool WriteAll(int fd, size_t offset, const char* from, size_t size) {
  while (size > 0) {
    const ssize_t wrote = pwrite(fd, from, size, static_cast<off_t>(offset));
    if (wrote <= 0) return false;
    from += wrote;
    offset += wrote;
    size -= wrote;
  }
  return true;
}

bool ReadAll(int fd, size_t offset, char* to, size_t size) {
  while (size > 0) {
    const ssize_t got = pread(fd, to, size, static_cast<off_t>(offset));
    if (got <= 0) return false;
    to += got;
    offset += got;
    size -= got;
  }
  return true;
}

cuda::Result Put(Memory& memory, Address to, const char* from, size_t size) {
  return EachPiece(memory, to, size, "a write", [&](int fd, size_t offset, size_t length) {
    from += length;
    return WriteAll(fd, offset, from - length, length);
  });
}

cuda::Result Get(Memory& memory, char* to, Address from, size_t size) {
  return EachPiece(memory, from, size, "a read", [&](int fd, size_t offset, size_t length) {
    to += length;
    return ReadAll(fd, offset, to - length, length);
  });
}

/// Zeroes by punching holes, so that memory nobody wrote stays sparse.
bool ZeroPiece(int fd, size_t offset, size_t size) {
  constexpr size_t kSystemPage = 4096;
  static const char zeroes[kSystemPage] = {};
  const size_t first = (offset + kSystemPage - 1) & ~(kSystemPage - 1);
  const size_t last = (offset + size) & ~(kSystemPage - 1);
  if (first >= last) {
    for (size_t done = 0; done < size;) {
      const size_t length = std::min(kSystemPage, size - done);
      if (!WriteAll(fd, offset + done, zeroes, length)) return false;
      done += length;
    }
    return true;
  }
  return WriteAll(fd, offset, zeroes, first - offset) &&
         WriteAll(fd, last, zeroes, offset + size - last) &&
         fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(first),
                   static_cast<off_t>(last - first)) == 0;
}

/// Of `limit` bytes from `at` on: how many have been written, or how many have not. What nobody has
/// written is a hole of the file.
size_t RunLength(int fd, size_t offset, size_t limit, bool* written) {
  const off_t begin = static_cast<off_t>(offset);
  const off_t data = lseek(fd, begin, SEEK_DATA);
  *written = data == begin;
  const off_t end = *written ? lseek(fd, begin, SEEK_HOLE) : data;
  return end < 0 ? limit : std::min(limit, static_cast<size_t>(end - begin));
}

cuda::Result MoveOnDevice(Memory& memory, Address to, Address from, size_t size) {
  std::vector<char> buffer(std::min(size, kBuffer));
  const bool overlap = to < from + size && from < to + size;
  const bool backwards = overlap && to > from;
  for (size_t done = 0; done < size;) {
    size_t length = std::min(size - done, buffer.size());
    Address base = 0;
    const Mapping* source = memory.At(from + done, &base);
    if (!overlap && source != nullptr && source->accessible) {
      length = std::min(length, base + source->size - (from + done));
      bool written = true;
      length = RunLength(source->physical->fd, from + done - base, length, &written);
      if (!written) {  // stays sparse
        if (auto error = EachPiece(memory, to + done, length, "a write", ZeroPiece)) return error;
        done += length;
        continue;
      }
    }
    const size_t at = backwards ? size - done - length : done;
    if (auto error = Get(memory, buffer.data(), from + at, length)) return error;
    if (auto error = Put(memory, to + at, buffer.data(), length)) return error;
    done += length;
  }
  return cuda::kSuccess;
}

}  // namespace

cuda::Result MoveBytes(Memory& memory, Address to, Address from, size_t size) {
  const bool to_device = memory.IsDevice(to), from_device = memory.IsDevice(from);
  if (to_device && from_device) return MoveOnDevice(memory, to, from, size);
  if (to_device) return Put(memory, to, reinterpret_cast<const char*>(from), size);
  if (from_device) return Get(memory, reinterpret_cast<char*>(to), from, size);
  std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), size);
  return cuda::kSuccess;
}

cuda::Result FillBytes(Memory& memory, Address to, uint32_t value, size_t element, size_t count) {
  const size_t size = element * count;
  const uint32_t mask = element == 4 ? ~0u : (1u << (8 * element)) - 1;
  if (memory.IsDevice(to) && (value & mask) == 0)
    return EachPiece(memory, to, size, "a memset", ZeroPiece);
  std::vector<char> buffer(std::min(size, kBuffer));
  for (size_t i = 0; i + element <= buffer.size(); i += element) {
    std::memcpy(&buffer[i], &value, element);
  }
  for (size_t done = 0; done < size; done += buffer.size()) {
    const size_t length = std::min(size - done, buffer.size());
    const Address from = reinterpret_cast<Address>(buffer.data());
    if (auto error = MoveBytes(memory, to + done, from, length)) return error;
  }
  return cuda::kSuccess;
}

cuda::Result TouchBytes(Memory& memory, Address at, size_t size) {
  return EachPiece(memory, at, size, "a kernel", [](int, size_t, size_t) { return true; });
}

}  // namespace phantom

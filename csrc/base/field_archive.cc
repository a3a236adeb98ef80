// Varints, raw bytes and their bounds.
#include "base/field_archive.h"

#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace tide {

static_assert(std::endian::native == std::endian::little, "doubles are archived as they lie");

void FieldArchive::Fail(absl::string_view what) {
  if (status_.ok()) status_ = absl::DataLossError(absl::StrCat("the archive is damaged: ", what));
  rest_ = absl::string_view();
}

void FieldArchive::Varint(uint64_t& value) {
  if (!reading_) {
    uint64_t left = value;
    for (; left >= 0x80; left >>= 7) bytes_.push_back(static_cast<char>(left | 0x80));
    bytes_.push_back(static_cast<char>(left));
    return;
  }
  uint64_t number = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (rest_.empty()) return Fail("it ends early");
    const auto byte = static_cast<uint8_t>(rest_.front());
    rest_.remove_prefix(1);
    number |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) {
      value = number;
      return;
    }
  }
  Fail("a number has too many bytes");
}

void FieldArchive::Integer(int64_t& number, int64_t least, int64_t most) {
  uint64_t zigzag = (static_cast<uint64_t>(number) << 1) ^ static_cast<uint64_t>(number >> 63);
  Varint(zigzag);
  if (!reading_ || !status_.ok()) return;
  const auto read = static_cast<int64_t>((zigzag >> 1) ^ (~(zigzag & 1) + 1));
  if (read < least || read > most) return Fail(absl::StrCat(read, " is out of range"));
  number = read;
}

void FieldArchive::Raw(void* data, size_t size) {
  if (!reading_) {
    bytes_.append(static_cast<const char*>(data), size);
    return;
  }
  if (rest_.size() < size) return Fail("it ends early");
  memcpy(data, rest_.data(), size);
  rest_.remove_prefix(size);
}

void FieldArchive::Text(std::string& text) {
  const size_t size = Count(text.size());
  if (reading_) text.resize(size);
  Raw(text.data(), size);
}

size_t FieldArchive::Count(size_t count) {
  uint64_t number = count;
  Varint(number);
  if (!reading_) return count;
  if (!status_.ok()) return 0;
  if (number > rest_.size()) {
    Fail(absl::StrCat(number, " elements in ", rest_.size(), " bytes"));
    return 0;
  }
  return static_cast<size_t>(number);
}

}  // namespace tide

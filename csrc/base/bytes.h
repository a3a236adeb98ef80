// Bytes and pages as types: sizes in memory never travel as bare integers inside the library.
#pragma once

#include <compare>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tide {

/// A count of bytes; may be negative as a difference. Arithmetic is plain 64-bit.
class Bytes {
 public:
  constexpr Bytes() = default;
  constexpr explicit Bytes(int64_t value) : value_(value) {}
  constexpr int64_t value() const { return value_; }
  constexpr size_t size() const { return static_cast<size_t>(value_); }

  constexpr auto operator<=>(const Bytes&) const = default;
  constexpr Bytes operator-() const { return Bytes(-value_); }
  constexpr Bytes& operator+=(Bytes other) { return *this = *this + other; }
  constexpr Bytes& operator-=(Bytes other) { return *this = *this - other; }
  friend constexpr Bytes operator+(Bytes a, Bytes b) { return Bytes(a.value_ + b.value_); }
  friend constexpr Bytes operator-(Bytes a, Bytes b) { return Bytes(a.value_ - b.value_); }
  friend constexpr Bytes operator*(Bytes a, int64_t n) { return Bytes(a.value_ * n); }
  friend constexpr int64_t operator/(Bytes a, Bytes b) { return a.value_ / b.value_; }

 private:
  int64_t value_ = 0;
};

constexpr Bytes KiB(int64_t n) { return Bytes(n << 10); }
constexpr Bytes MiB(int64_t n) { return Bytes(n << 20); }
constexpr Bytes GiB(int64_t n) { return Bytes(n << 30); }

/// The unit in which memory is committed, moved and accounted: one huge page of x86-64.
inline constexpr int64_t kPageShift = 21;
inline constexpr Bytes kPage = Bytes(int64_t{1} << kPageShift);

/// A count of pages of kPage.
class PageCount {
 public:
  constexpr PageCount() = default;
  constexpr explicit PageCount(int64_t value) : value_(value) {}
  constexpr int64_t value() const { return value_; }
  constexpr Bytes bytes() const { return kPage * value_; }
  constexpr auto operator<=>(const PageCount&) const = default;
  friend constexpr PageCount operator+(PageCount a, PageCount b) {
    return PageCount(a.value_ + b.value_);
  }
  friend constexpr PageCount operator-(PageCount a, PageCount b) {
    return PageCount(a.value_ - b.value_);
  }

 private:
  int64_t value_ = 0;
};

/// Pages needed to hold `bytes`, rounded up.
constexpr PageCount PagesFor(Bytes bytes) {
  return PageCount((bytes.value() + kPage.value() - 1) >> kPageShift);
}

/// "1.5 GiB", "320 MiB", "17 KiB", "12 B"; negative sizes keep their sign.
std::string FormatBytes(Bytes bytes);

/// Reads "1.5GiB", "300MB", "4096", "2g" (powers of 1024 for KiB/MiB/GiB/TiB and single letters,
/// powers of 1000 for kB/MB/GB/TB). Errors: InvalidArgument naming the text and what is accepted;
/// negative, NaN, infinite and overflowing sizes are refused.
absl::StatusOr<Bytes> ParseBytes(absl::string_view text);

}  // namespace tide

// Plain loops that the compiler turns into vector code (this file is built with -O3).
#include "elastic/kernels.h"

#include <array>
#include <bit>
#include <cstring>
#include <limits>

namespace tide::elastic {
namespace {

constexpr uint16_t kQuietBfloat16 = 0x7fc0;

float Widen(uint16_t half) { return std::bit_cast<float>(static_cast<uint32_t>(half) << 16); }

/// Round to nearest, ties to even; any NaN becomes the quiet one.
uint16_t Narrow(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return value != value ? kQuietBfloat16 : static_cast<uint16_t>(rounded);
}

template <typename T>
void AddFloats(const T* left, const T* right, T* out, size_t count) {
#pragma GCC ivdep
  for (size_t i = 0; i < count; ++i) out[i] = left[i] + right[i];
}

void AddHalves(const uint16_t* left, const uint16_t* right, uint16_t* out, size_t count) {
#pragma GCC ivdep
  for (size_t i = 0; i < count; ++i) out[i] = Narrow(Widen(left[i]) + Widen(right[i]));
}

template <typename T>
void FinishFloats(T* values, T scale, size_t count) {
  constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();
  for (size_t i = 0; i < count; ++i) {
    const T value = values[i] * scale;
    values[i] = value != value ? kNaN : value;
  }
}

}  // namespace

void Add(ElementType type, const void* left, const void* right, void* out, size_t count) {
  switch (type) {
    case ElementType::kFloat32:
      AddFloats(static_cast<const float*>(left), static_cast<const float*>(right),
                static_cast<float*>(out), count);
      break;
    case ElementType::kBfloat16:
      AddHalves(static_cast<const uint16_t*>(left), static_cast<const uint16_t*>(right),
                static_cast<uint16_t*>(out), count);
      break;
    case ElementType::kFloat64:
      AddFloats(static_cast<const double*>(left), static_cast<const double*>(right),
                static_cast<double*>(out), count);
      break;
  }
}

void AddZero(ElementType type, void* values, size_t count) {
  if (type == ElementType::kFloat32) {
    auto* typed = static_cast<float*>(values);
    for (size_t i = 0; i < count; ++i) typed[i] += 0.0f;
  } else if (type == ElementType::kFloat64) {
    auto* typed = static_cast<double*>(values);
    for (size_t i = 0; i < count; ++i) typed[i] += 0.0;
  } else {
    auto* typed = static_cast<uint16_t*>(values);
    for (size_t i = 0; i < count; ++i) typed[i] = Narrow(Widen(typed[i]) + 0.0f);
  }
}

void Finish(ElementType type, void* values, double scale, size_t count) {
  if (type == ElementType::kFloat32) {
    FinishFloats(static_cast<float*>(values), static_cast<float>(scale), count);
  } else if (type == ElementType::kFloat64) {
    FinishFloats(static_cast<double*>(values), scale, count);
  } else {
    auto* typed = static_cast<uint16_t*>(values);
    const auto factor = static_cast<float>(scale);
    for (size_t i = 0; i < count; ++i) typed[i] = Narrow(Widen(typed[i]) * factor);
  }
}

uint64_t Checksum(const void* data, size_t bytes) {
  constexpr size_t kLanes = 16;
  constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;  // 2^64 over the golden ratio
  std::array<uint64_t, kLanes> words{}, sums{}, sums_of_sums{};
  const auto* bytes_left = static_cast<const std::byte*>(data);
  const auto take = [&] {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      sums[lane] += words[lane];
      sums_of_sums[lane] += sums[lane];
    }
  };
  size_t left = bytes;
  for (; left >= sizeof(words); left -= sizeof(words), bytes_left += sizeof(words)) {
    std::memcpy(words.data(), bytes_left, sizeof(words));
    take();
  }
  if (left != 0) {
    words = {};
    std::memcpy(words.data(), bytes_left, left);
    take();
  }
  uint64_t found = bytes;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    found = (found ^ sums[lane]) * kOdd;
    found = std::rotl(found ^ sums_of_sums[lane], 29) * kOdd;
  }
  return found;
}

}  // namespace tide::elastic

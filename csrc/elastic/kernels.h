// Element-wise additions with one result whatever the split: the arithmetic of the tree.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tide::elastic {

/// Element types of gradients that can be summed.
enum class ElementType : uint8_t { kFloat32 = 0, kBfloat16 = 1, kFloat64 = 2 };

/// Bytes of one element.
constexpr size_t ElementBytes(ElementType type) {
  return type == ElementType::kFloat64 ? 8 : type == ElementType::kFloat32 ? 4 : 2;
}

/// out[i] = left[i] + right[i]; bfloat16 is added in float32 and rounded to nearest even. `out` may
/// be one of the operands. Each element depends on its own operands only, so any division of an
/// array gives the same bits; of a NaN only that it is one is defined (Finish makes it one value).
void Add(ElementType type, const void* left, const void* right, void* out, size_t count);

/// values[i] += 0, as adding a gradient that is zero everywhere: -0 becomes 0.
void AddZero(ElementType type, void* values, size_t count);

/// A number that tells arrays apart that differ in a value or a place: two sums of 64-bit words
/// (Fletcher) in several lanes. Not against forgery.
uint64_t Checksum(const void* data, size_t bytes);

/// values[i] *= scale, and every NaN becomes the one quiet NaN: which operand's payload an addition
/// keeps is the compiler's choice and may differ between the body and the tail of a loop.
void Finish(ElementType type, void* values, double scale, size_t count);

}  // namespace tide::elastic

// Free ranges of one address range: best fit, lowest address first, neighbours merged.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/container/btree_map.h"
#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "base/bytes.h"

namespace tide::arena {

/// Sizes are rounded to this: a block starts on a system page, so that it can be re-mapped by
/// itself.
inline constexpr Bytes kGrain = Bytes(4096);

constexpr Bytes RoundToGrain(Bytes size) {
  return Bytes((size.value() + kGrain.value() - 1) & ~(kGrain.value() - 1));
}

/// Offsets in [0, capacity). Externally synchronised. No links are kept inside the memory it hands
/// out.
class Heap {
 public:
  explicit Heap(Bytes capacity) : capacity_(capacity) {}

  /// The offset of `size` bytes (a multiple of kGrain), or nothing when no range is large enough.
  std::optional<Bytes> Allocate(Bytes size);
  void Free(Bytes offset, Bytes size);

  Bytes used() const { return used_; }
  /// One past the highest byte ever handed out.
  Bytes top() const { return top_; }
  absl::Status Validate() const;

 private:
  void Insert(int64_t offset, int64_t size);

  const Bytes capacity_;
  Bytes used_;
  Bytes top_;
  absl::btree_map<int64_t, int64_t> by_offset_;           // offset -> size
  absl::btree_set<std::pair<int64_t, int64_t>> by_size_;  // (size, offset)
};

}  // namespace tide::arena

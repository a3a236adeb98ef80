#include "arena/heap.h"

#include <iterator>

#include "absl/strings/str_cat.h"

namespace tide::arena {

void Heap::Insert(int64_t offset, int64_t size) {
  auto next = by_offset_.lower_bound(offset);
  if (next != by_offset_.end() && next->first == offset + size) {
    size += next->second;
    by_size_.erase({next->second, next->first});
    next = by_offset_.erase(next);
  }
  if (next != by_offset_.begin()) {
    auto before = std::prev(next);
    if (before->first + before->second == offset) {
      by_size_.erase({before->second, before->first});
      before->second += size;
      by_size_.insert({before->second, before->first});
      return;
    }
  }
  by_offset_[offset] = size;
  by_size_.insert({size, offset});
}

std::optional<Bytes> Heap::Allocate(Bytes size) {
  auto fit = by_size_.lower_bound({size.value(), 0});
  if (fit == by_size_.end()) {
    // Extend the top; a free range that ends there is used first.
    int64_t tail = 0;
    if (!by_offset_.empty()) {
      auto last = std::prev(by_offset_.end());
      if (last->first + last->second == top_.value()) tail = last->second;
    }
    const Bytes grow = size - Bytes(tail);
    if (top_ + grow > capacity_) return std::nullopt;
    const int64_t at = top_.value();
    top_ += grow;
    Insert(at, grow.value());
    fit = by_size_.lower_bound({size.value(), 0});
  }
  const auto [range_size, offset] = *fit;
  by_size_.erase(fit);
  by_offset_.erase(offset);
  if (range_size > size.value()) {
    by_offset_[offset + size.value()] = range_size - size.value();
    by_size_.insert({range_size - size.value(), offset + size.value()});
  }
  used_ += size;
  return Bytes(offset);
}

void Heap::Free(Bytes offset, Bytes size) {
  used_ -= size;
  Insert(offset.value(), size.value());
}

absl::Status Heap::Validate() const {
  if (by_offset_.size() != by_size_.size())
    return absl::InternalError("the two free lists differ in length");
  int64_t end = -1;
  int64_t free_bytes = 0;
  for (const auto& [offset, size] : by_offset_) {
    if (offset <= end)
      return absl::InternalError(absl::StrCat("free ranges touch or overlap at ", offset));
    if (!by_size_.contains({size, offset}))
      return absl::InternalError(absl::StrCat("range ", offset, " has no size entry"));
    end = offset + size;
    free_bytes += size;
  }
  if (end > top_.value()) return absl::InternalError("a free range reaches past the top");
  if (free_bytes + used_.value() != top_.value())
    return absl::InternalError("free and used do not add up to the top");
  return absl::OkStatus();
}

}  // namespace tide::arena

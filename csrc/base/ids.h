// Strong identifiers: a lane is not a slot is not a revision, and the compiler knows.
#pragma once

#include <compare>
#include <cstdint>
#include <utility>

namespace tide {

/// An integer with a tag; ids of different tags do not mix.
template <typename Tag, typename Int = int32_t>
class Id {
 public:
  constexpr Id() = default;
  constexpr explicit Id(Int value) : value_(value) {}
  constexpr Int value() const { return value_; }
  constexpr auto operator<=>(const Id&) const = default;
  template <typename H>
  friend H AbslHashValue(H h, const Id& id) {
    return H::combine(std::move(h), id.value_);
  }

 private:
  Int value_ = -1;
};

using SlotId = Id<struct SlotTag>;                 // index of a process in the device table
using LaneId = Id<struct LaneTag>;                 // index of a lane in the device table
using PageIndex = Id<struct PageTag, int64_t>;     // index of a page in a page table
using SpillSlot = Id<struct SpillTag, int64_t>;    // index of a page-sized slot in the spill file
using JobId = Id<struct JobTag, int64_t>;          // given by the daemon at registration
using Revision = Id<struct RevisionTag, int64_t>;  // of a grant or limit; larger is newer

}  // namespace tide

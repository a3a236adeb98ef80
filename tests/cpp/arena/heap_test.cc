// The heap of free ranges against a shadow of taken ones.
#include "arena/heap.h"

#include <map>

#include "base/random.h"
#include "gtest/gtest.h"

namespace tide::arena {
namespace {

TEST(HeapTest, BestFitThenLowestAddressAndNeighboursMerge) {
  Heap heap(MiB(1));
  for (int i = 0; i < 6; ++i) EXPECT_EQ(*heap.Allocate(kGrain * 2), kGrain * (2 * i));
  heap.Free(kGrain * 2, kGrain * 2);
  heap.Free(kGrain * 6, kGrain * 2);
  EXPECT_EQ(*heap.Allocate(kGrain), kGrain * 2) << "of two equal ranges the lower";
  EXPECT_EQ(*heap.Allocate(kGrain), kGrain * 3) << "the smallest that fits";
  heap.Free(kGrain * 4, kGrain * 2);
  EXPECT_EQ(*heap.Allocate(kGrain * 4), kGrain * 4) << "merged with its neighbour";
  EXPECT_TRUE(heap.Validate().ok());
}

TEST(HeapTest, TheFreeTailIsUsedBeforeTheTopGrows) {
  Heap heap(kGrain * 4);
  const Bytes at = *heap.Allocate(kGrain * 3);
  heap.Free(at, kGrain * 3);
  EXPECT_EQ(*heap.Allocate(kGrain * 4), Bytes(0));
  EXPECT_EQ(heap.top(), kGrain * 4);
  EXPECT_FALSE(heap.Allocate(kGrain).has_value());
  EXPECT_EQ(heap.used(), kGrain * 4);
}

TEST(HeapTest, RandomUseNeverOverlapsAndEndsEmpty) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    Heap heap(MiB(4));
    std::map<int64_t, int64_t> taken;
    for (int step = 0; step < 3000; ++step) {
      if (random.Below(2) == 0 && !taken.empty()) {
        auto victim = std::next(taken.begin(), static_cast<int64_t>(random.Below(taken.size())));
        heap.Free(Bytes(victim->first), Bytes(victim->second));
        taken.erase(victim);
      } else {
        const Bytes size = kGrain * static_cast<int64_t>(1 + random.Below(40));
        const auto at = heap.Allocate(size);
        if (!at) continue;
        const auto after = taken.lower_bound(at->value());
        ASSERT_TRUE(after == taken.end() || (*at + size).value() <= after->first);
        ASSERT_TRUE(after == taken.begin() ||
                    std::prev(after)->first + std::prev(after)->second <= at->value());
        taken[at->value()] = size.value();
      }
      if (step % 100 == 0) {
        ASSERT_TRUE(heap.Validate().ok()) << heap.Validate();
      }
    }
    for (const auto& [offset, size] : taken) heap.Free(Bytes(offset), Bytes(size));
    EXPECT_EQ(heap.used(), Bytes(0));
    EXPECT_TRUE(heap.Allocate(MiB(4)).has_value()) << "everything merged again";
  }
}

}  // namespace
}  // namespace tide::arena

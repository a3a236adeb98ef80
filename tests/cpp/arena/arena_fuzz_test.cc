// A hundred thousand random operations on the arena against a shadow model.
#include "fuzz/arena_fuzz.h"

namespace tide::arena {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kSteps = 5'000;
constexpr bool kForks = false;  // a sanitizer's child costs seconds
#else
constexpr int kSteps = 25'000;
constexpr bool kForks = true;
#endif

TEST(ArenaFuzzTest, AHundredThousandOperationsKeepContentsAndCounts) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    ArenaFuzz fuzz(seed, /*host=*/true, kForks);
    fuzz.Run(kSteps);
    if (::testing::Test::HasFailure()) return;
    for (int kind = 0; kind < (kForks ? 7 : 6); ++kind) EXPECT_GT(fuzz.done(kind), 0) << kind;
  }
}

TEST(ArenaFuzzTest, OnTheFakeNothingIsMappedThatMakesNoSense) {
  SCOPED_TRACE("seed 9");
  ArenaFuzz fuzz(9, /*host=*/false, /*forks=*/false);
  fuzz.Run(1'000);
}

}  // namespace
}  // namespace tide::arena

// The codec fuzzer with fixed seeds.
#include "fuzz/codec_fuzz.h"

namespace tide::wire {
namespace {

constexpr uint64_t kRounds = 100'000;

TEST(CodecFuzzTest, AHundredThousandMutatedStreamsEndInTypedErrorsOrMessages) {
  for (uint64_t seed = 1; seed <= kRounds; ++seed) {
    FuzzOnce(seed);
    if (testing::Test::HasFailure()) FAIL() << "seed " << seed;
  }
}

TEST(CodecFuzzTest, UntouchedStreamsAreReadWhole) {
  for (uint64_t seed = 1; seed <= 1000; ++seed) {
    Random random(seed);
    const auto frame = EncodeMessage(RandomMessage(random));
    EXPECT_EQ(DecodeAll(*EncodeFrame(*frame), random), 1) << "seed " << seed;
  }
}

}  // namespace
}  // namespace tide::wire

// Additions give the same bits however an array is divided, NaN, infinities and signed zeros too.
#include "elastic/kernels.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/random.h"
#include "gtest/gtest.h"

namespace tide::elastic {
namespace {

constexpr size_t kCount = 1003;  // neither a multiple of a vector nor of a block

std::vector<float> Numbers(uint64_t seed) {
  Random random(seed);
  const float odd[] = {-0.0f, std::numeric_limits<float>::infinity(),
                       -std::numeric_limits<float>::infinity(),
                       std::numeric_limits<float>::denorm_min(), std::nanf("7")};
  std::vector<float> numbers(kCount);
  for (float& number : numbers) {
    number = static_cast<float>((random.Unit() - 0.5) * std::pow(2.0, random.Below(40)));
    if (random.Below(16) == 0) number = odd[random.Below(5)];
  }
  return numbers;
}

TEST(KernelsTest, AnyDivisionOfAnArrayGivesTheSameBits) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    SCOPED_TRACE(seed);
    const auto left = Numbers(seed), right = Numbers(seed + 1000);
    std::vector<float> whole(kCount), parts(kCount);
    Add(ElementType::kFloat32, left.data(), right.data(), whole.data(), kCount);
    Finish(ElementType::kFloat32, whole.data(), 1.0 / 3, kCount);
    Random random(seed);
    for (size_t at = 0; at < kCount;) {
      const size_t count = std::min<size_t>(1 + random.Below(64), kCount - at);
      Add(ElementType::kFloat32, left.data() + at, right.data() + at, parts.data() + at, count);
      Finish(ElementType::kFloat32, parts.data() + at, 1.0 / 3, count);
      at += count;
    }
    EXPECT_EQ(std::memcmp(whole.data(), parts.data(), kCount * sizeof(float)), 0);
  }
}

TEST(KernelsTest, AddingInPlaceIsAddingElsewhere) {
  auto left = Numbers(1);
  const auto right = Numbers(2);
  std::vector<float> elsewhere(kCount);
  Add(ElementType::kFloat32, left.data(), right.data(), elsewhere.data(), kCount);
  Add(ElementType::kFloat32, left.data(), right.data(), left.data(), kCount);
  Finish(ElementType::kFloat32, left.data(), 1, kCount);
  Finish(ElementType::kFloat32, elsewhere.data(), 1, kCount);
  EXPECT_EQ(std::memcmp(left.data(), elsewhere.data(), kCount * sizeof(float)), 0);
}

TEST(KernelsTest, Bfloat16IsRoundedToNearestEvenAfterEachAddition) {
  const auto half = [](float value) {
    return static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
  };
  const uint16_t one = half(1.0f), tiny = half(0x1p-8f), more = half(0x1.8p-7f);
  uint16_t sum = 0;
  Add(ElementType::kBfloat16, &one, &tiny, &sum, 1);  // a tie: to even, which is 1
  EXPECT_EQ(sum, one);
  Add(ElementType::kBfloat16, &one, &more, &sum, 1);  // a tie: to even, which is above
  EXPECT_EQ(sum, half(1.0f + 0x1p-6f));
}

TEST(KernelsTest, AChecksumTellsValuesAndPlacesApart) {
  std::vector<float> values(1000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) - 500;
  for (const size_t count : {1, 7, 31, 32, 33, 1000}) {
    const size_t bytes = count * sizeof(float);
    const uint64_t before = Checksum(values.data(), bytes);
    EXPECT_EQ(Checksum(values.data(), bytes), before);
    EXPECT_NE(Checksum(values.data(), bytes - 1), before);
    for (size_t i = 0; i < count; ++i) {
      const float kept = values[i];
      values[i] = std::nextafter(kept, 1e9f);
      EXPECT_NE(Checksum(values.data(), bytes), before) << i << " of " << count;
      values[i] = kept;
      if (i == 0) continue;
      std::swap(values[i], values[0]);
      EXPECT_NE(Checksum(values.data(), bytes), before) << "0 and " << i << " of " << count;
      std::swap(values[i], values[0]);
    }
  }
  const std::vector<float> zeros(64);
  EXPECT_NE(Checksum(zeros.data(), 128), Checksum(zeros.data(), 256));
}

TEST(KernelsTest, EveryNaNBecomesTheSameAndZeroLosesItsSignOnlyByAddition) {
  float values[] = {std::nanf("1"), -std::nanf("2"), -0.0f};
  Finish(ElementType::kFloat32, values, 1.0, 3);
  EXPECT_EQ(std::bit_cast<uint32_t>(values[0]), std::bit_cast<uint32_t>(values[1]));
  EXPECT_TRUE(std::signbit(values[2]));
  AddZero(ElementType::kFloat32, values, 3);
  EXPECT_FALSE(std::signbit(values[2]));
  double wide[] = {std::nan("1"), -std::nan("2")};
  Finish(ElementType::kFloat64, wide, 1.0, 2);
  EXPECT_EQ(std::bit_cast<uint64_t>(wide[0]), std::bit_cast<uint64_t>(wide[1]));
}

}  // namespace
}  // namespace tide::elastic

// Turns that last longer because memory moves: said once, and once when they are over.
#include "runtime/long_turns.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tide::runtime {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kBegin = 100 * kSecond;

std::string Kind(const std::optional<LongTurns::Said>& said) { return said ? said->kind : ""; }

TEST(LongTurns, AreSaidOnceWithTheTimesAndOnceWhenTheyAreOver) {
  LongTurns turns;
  const auto said = turns.Note(kBegin, kSecond, 9 * kSecond, kSecond / 2);
  ASSERT_TRUE(said);
  EXPECT_EQ(said->kind, "long_turns");
  EXPECT_THAT(said->text, ::testing::HasSubstr("for 9s instead of 500ms"));
  EXPECT_THAT(said->text, ::testing::HasSubstr("takes 1s to leave and return"));
  int64_t now = kBegin;
  for (int turn = 0; turn < 5; ++turn) {
    for (int i = 1; i < 18; ++i)
      EXPECT_EQ(Kind(turns.Note(now + i * kSecond, 0, 0, kSecond / 2)), "");
    now += 18 * kSecond;
    EXPECT_EQ(Kind(turns.Note(now, kSecond, 9 * kSecond, kSecond / 2)), "");
  }
  EXPECT_EQ(Kind(turns.Note(now + 18 * kSecond - 1, 0, 0, kSecond / 2)), "");
  EXPECT_EQ(Kind(turns.Note(now + 18 * kSecond, 0, 0, kSecond / 2)), "usual_turns");
  EXPECT_EQ(Kind(turns.Note(now + 19 * kSecond, 0, 0, kSecond / 2)), "");
}

TEST(LongTurns, AreNoneWhereTheLaneItselfKeepsTurnsAsLong) {
  LongTurns turns;
  EXPECT_EQ(Kind(turns.Note(kBegin, kSecond, 9 * kSecond, 9 * kSecond)), "");
  EXPECT_EQ(Kind(turns.Note(kBegin, 0, 0, 0)), "") << "nothing has moved";
  EXPECT_EQ(Kind(turns.Note(kBegin, kSecond, 9 * kSecond, 9 * kSecond - 1)), "long_turns");
}

TEST(LongTurns, EndAlsoWhereMemoryStillMovesButTakesLittle) {
  LongTurns turns;
  turns.Note(kBegin, kSecond, 9 * kSecond, kSecond);
  EXPECT_EQ(Kind(turns.Note(kBegin + 18 * kSecond, kSecond / 100, kSecond / 11, kSecond)),
            "usual_turns");
}

TEST(LongTurns, ThatComeAndGoAreSaidEveryTenSecondsAtMost) {
  LongTurns turns;
  int said = 0;
  for (int64_t now = kBegin; now < kBegin + 29 * kSecond; now += kSecond) {
    said += turns.Note(now, kSecond / 10, kSecond / 5, kSecond / 10).has_value();
    said += turns.Note(now + kSecond / 2, 0, 0, kSecond / 10).has_value();
  }
  EXPECT_EQ(said, 2 * 3);
}

}  // namespace
}  // namespace tide::runtime

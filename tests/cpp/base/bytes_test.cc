#include "base/bytes.h"

#include "gtest/gtest.h"

namespace tide {
namespace {

TEST(BytesTest, ReadsTheUnitsPeopleType) {
  EXPECT_EQ(*ParseBytes("4096"), Bytes(4096));
  EXPECT_EQ(*ParseBytes("1.5GiB"), Bytes(1610612736));
  EXPECT_EQ(*ParseBytes("1.5 gib"), Bytes(1610612736));
  EXPECT_EQ(*ParseBytes("2g"), GiB(2));
  EXPECT_EQ(*ParseBytes("300MB"), Bytes(300'000'000));
  EXPECT_EQ(*ParseBytes("0"), Bytes(0));
}

TEST(BytesTest, RefusesWhatIsNotASizeAndSaysWhatIs) {
  for (const char* text : {"", "GiB", "-1GiB", "1.5XiB", "nan", "inf", "1e300", "1..5", "१GiB"}) {
    auto parsed = ParseBytes(text);
    EXPECT_FALSE(parsed.ok()) << text;
    EXPECT_TRUE(absl::IsInvalidArgument(parsed.status()));
    EXPECT_NE(parsed.status().message().find("1.5GiB"), absl::string_view::npos);
  }
}

TEST(BytesTest, FormatsWithThreeDigits) {
  EXPECT_EQ(FormatBytes(Bytes(12)), "12 B");
  EXPECT_EQ(FormatBytes(MiB(320)), "320 MiB");
  EXPECT_EQ(FormatBytes(Bytes(1610612736)), "1.5 GiB");
  EXPECT_EQ(FormatBytes(-MiB(3)), "-3 MiB");
}

TEST(BytesTest, PagesRoundUp) {
  EXPECT_EQ(PagesFor(Bytes(0)).value(), 0);
  EXPECT_EQ(PagesFor(Bytes(1)).value(), 1);
  EXPECT_EQ(PagesFor(kPage).value(), 1);
  EXPECT_EQ(PagesFor(kPage + Bytes(1)).value(), 2);
}

}  // namespace
}  // namespace tide

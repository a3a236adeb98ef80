// Values round trip; what the protocol does not allow is refused.
#include "wire/value.h"

#include "gtest/gtest.h"

namespace tide::wire {
namespace {

std::string Refusal(absl::string_view bytes) {
  return std::string(Unpack(bytes).status().message());
}

TEST(ValueTest, EverySortOfValueReadsBack) {
  const Value value(Value::Map{{"null", Value()},
                               {"yes", true},
                               {"least", INT64_MIN},
                               {"most", INT64_MAX},
                               {"pi", 3.25},
                               {"text", "größer"},
                               {"list", Value::Array{1, "two", Value::Map{{"three", 3}}}}});
  const auto back = Unpack(Pack(value));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, value);
  EXPECT_EQ(back->Int("most"), INT64_MAX);
  EXPECT_EQ(back->Float("pi"), 3.25);
  EXPECT_EQ(back->Text("text"), "größer");
  EXPECT_EQ(back->Int("absent", 5), 5);
  EXPECT_EQ(back->Int("text", 5), 5);
}

TEST(ValueTest, WhatTheProtocolDoesNotAllowIsRefusedByName) {
  EXPECT_NE(Refusal("").find("end"), std::string::npos);
  EXPECT_NE(Refusal("\xc1").find("malformed"), std::string::npos);
  EXPECT_NE(Refusal("\xc4\x01x").find("binary"), std::string::npos);
  EXPECT_NE(Refusal(absl::string_view("\xd4\x01x", 3)).find("extension"), std::string::npos);
  EXPECT_NE(Refusal("\xa2\xff\xff").find("UTF-8"), std::string::npos);
  EXPECT_NE(Refusal("\x81\x01\x01").find("key"), std::string::npos);
  EXPECT_NE(Refusal("\x81\x90\x01").find("key"), std::string::npos);
  EXPECT_NE(Refusal("\xcf\xff\xff\xff\xff\xff\xff\xff\xff").find("2^63"), std::string::npos);
  EXPECT_NE(Refusal(absl::string_view("\xcb\x7f\xf8\0\0\0\0\0\0", 9)).find("finite"),
            std::string::npos);
  EXPECT_NE(Refusal("\x01\x02").find("after its value"), std::string::npos);
  EXPECT_NE(Refusal(std::string(100, '\x91')).find("levels"), std::string::npos);
}

TEST(ValueTest, ALyingLengthCostsNoMemory) {
  EXPECT_FALSE(Unpack("\xdd\xff\xff\xff\xff").ok());      // an array of 2^32-1
  EXPECT_FALSE(Unpack("\xdf\xff\xff\xff\xff").ok());      // a map of 2^32-1
  EXPECT_FALSE(Unpack("\xdb\xff\xff\xff\xff").ok());      // text of 2^32-1
  EXPECT_FALSE(Unpack("\xc9\xff\xff\xff\xff\x01").ok());  // an extension of 2^32-1
}

TEST(ValueTest, OfEqualKeysTheFirstCounts) {
  EXPECT_EQ(Unpack("\x82\xa1k\x01\xa1k\x02")->Int("k"), 1);
}

TEST(ValueTest, Utf8IsJudgedByTheStandard) {
  for (const char* good : {"", "a", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x8c\x8a"})
    EXPECT_TRUE(IsUtf8(good));
  for (const char* bad :
       {"\x80", "\xc0\x80", "\xc3", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe0\x80\x80", "\xff"}) {
    EXPECT_FALSE(IsUtf8(bad));
  }
  EXPECT_EQ(Utf8Prefix("a\xe2\x82\xac", 3), "a");
  EXPECT_EQ(Utf8Prefix("a\xe2\x82\xac", 4), "a\xe2\x82\xac");
}

}  // namespace
}  // namespace tide::wire

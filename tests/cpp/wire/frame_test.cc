// The header of the protocol page, and every way in which a frame is wrong.
#include "wire/frame.h"

#include <cstring>

#include "gtest/gtest.h"
#include "wire/messages.h"

namespace tide::wire {
namespace {

std::string Bytes(FrameKind kind, std::string body, uint64_t request_id = 7) {
  return *EncodeFrame(Frame{kind, request_id, 3, std::move(body)});
}

FrameError ErrorOf(std::string bytes, Snapshots snapshots = Snapshots::kRefuse) {
  FrameDecoder decoder(snapshots);
  decoder.Feed(bytes);
  const auto frame = decoder.Next();
  return frame.ok() ? FrameError::kNone : FrameErrorOf(frame.status());
}

TEST(FrameTest, HeaderLiesOnTheWireAsTheProtocolPageSays) {
  const std::string bytes = Bytes(FrameKind::kReport, "abc", 0x0102030405060708);
  ASSERT_EQ(bytes.size(), 51u);
  EXPECT_EQ(bytes.substr(0, 4), "TIDE");
  EXPECT_EQ(bytes.substr(4, 8), std::string("\x01\x00\x04\x00\x00\x00\x00\x00", 8));
  EXPECT_EQ(bytes.substr(12, 4), std::string("\x03\x00\x00\x00", 4));
  EXPECT_EQ(bytes.substr(16, 8), "\x08\x07\x06\x05\x04\x03\x02\x01");
  EXPECT_EQ(bytes.substr(24, 8), std::string("\x03\0\0\0\0\0\0\0", 8));
  EXPECT_EQ(bytes.substr(48), "abc");
}

TEST(FrameTest, FramesArriveWholeHoweverTheStreamIsCut) {
  const std::string first = Bytes(FrameKind::kHello, "one"), second = Bytes(FrameKind::kBye, "");
  const std::string stream = first + second;
  for (size_t cut = 0; cut <= stream.size(); ++cut) {
    FrameDecoder decoder(Snapshots::kRefuse);
    std::vector<Frame> frames;
    for (const std::string& part : {stream.substr(0, cut), stream.substr(cut)}) {
      decoder.Feed(part);
      while (true) {
        auto frame = decoder.Next();
        ASSERT_TRUE(frame.ok()) << frame.status() << " cut at " << cut;
        if (!*frame) break;
        frames.push_back(**std::move(frame));
      }
    }
    ASSERT_EQ(frames.size(), 2u) << "cut at " << cut;
    EXPECT_EQ(frames[0].body, "one");
    EXPECT_EQ(frames[1].kind, FrameKind::kBye);
    EXPECT_EQ(frames[1].request_id, 7u);
    EXPECT_EQ(frames[1].generation, 3u);
    EXPECT_TRUE(decoder.AtEnd().ok());
  }
}

TEST(FrameTest, AnEndInsideAFrameIsTruncatedAtEachByte) {
  const std::string bytes = Bytes(FrameKind::kHello, "body");
  for (size_t size = 1; size < bytes.size(); ++size) {
    FrameDecoder decoder(Snapshots::kRefuse);
    decoder.Feed(bytes.substr(0, size));
    ASSERT_TRUE(decoder.Next().ok()) << size;
    EXPECT_EQ(FrameErrorOf(decoder.AtEnd()), FrameError::kTruncated) << size;
  }
}

TEST(FrameTest, EachFlippedBitOfAFrameIsRefused) {
  const std::string good = Bytes(FrameKind::kHello, "some body");
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bytes = good;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
    EXPECT_NE(ErrorOf(bytes), FrameError::kNone) << "bit " << bit;
  }
}

TEST(FrameTest, AnotherVersionIsNamedAsSuchFromItsFirstEightBytes) {
  std::string bytes = Bytes(FrameKind::kHello, "").substr(0, 8);
  bytes[4] = 9;
  FrameDecoder decoder(Snapshots::kRefuse);
  decoder.Feed(bytes);
  const auto frame = decoder.Next();
  EXPECT_EQ(FrameErrorOf(frame.status()), FrameError::kWrongVersion);
  EXPECT_NE(frame.status().message().find("version 9"), absl::string_view::npos);
  bytes[0] = 'X';
  EXPECT_EQ(ErrorOf(bytes), FrameError::kBadMagic);
}

TEST(FrameTest, ABodyOverItsBoundIsRefusedBySenderAndReader) {
  EXPECT_EQ(
      FrameErrorOf(
          EncodeFrame({FrameKind::kReport, 0, 0, std::string(kBodyBytesMax + 1, 'x')}).status()),
      FrameError::kTooLarge);
  const std::string snapshot = Bytes(FrameKind::kAnswer, std::string(kBodyBytesMax + 1, 'x'));
  EXPECT_EQ(ErrorOf(snapshot, Snapshots::kRefuse), FrameError::kTooLarge);
  EXPECT_EQ(ErrorOf(snapshot, Snapshots::kAccept), FrameError::kNone);
  EXPECT_EQ(
      FrameErrorOf(EncodeFrame({FrameKind::kAnswer, 0, 0, std::string(kSnapshotBytesMax + 1, 'x')})
                       .status()),
      FrameError::kTooLarge);
}

TEST(FrameTest, TheFirstErrorIsFinal) {
  FrameDecoder decoder(Snapshots::kRefuse);
  decoder.Feed("this is not the protocol at all");
  EXPECT_FALSE(decoder.Next().ok());
  decoder.Feed(Bytes(FrameKind::kHello, ""));
  EXPECT_EQ(FrameErrorOf(decoder.Next().status()), FrameError::kBadMagic);
}

TEST(FrameTest, KindsHaveNamesThatReadBack) {
  for (uint16_t number = 1; number <= 14; ++number) {
    const FrameKind kind = static_cast<FrameKind>(number);
    EXPECT_EQ(FrameKindFromName(FrameKindName(kind)), kind);
  }
  EXPECT_EQ(FrameKindFromName("unknown"), std::nullopt);
  EXPECT_EQ(FrameKindName(static_cast<FrameKind>(99)), "unknown");
}

}  // namespace
}  // namespace tide::wire

// What every channel promises, tested on each implementation.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "wire/channel.h"

namespace tide::wire {

using ChannelPair = std::pair<std::unique_ptr<Channel>, std::unique_ptr<Channel>>;

/// `Maker` is default-constructible and has `ChannelPair Make()`; it owns what the ends need.
template <typename Maker>
class ChannelContract : public testing::Test {
 protected:
  static Frame Numbered(uint64_t number, size_t size = 3) {
    return {FrameKind::kReport, number, number,
            std::string(size, static_cast<char>('a' + number % 26))};
  }
  /// The next frame, waiting for it.
  static absl::StatusOr<Frame> Take(Channel& channel) {
    for (int round = 0; round < 1000; ++round) {
      auto frame = channel.Receive();
      if (!frame.ok()) return frame.status();
      if (*frame) return **std::move(frame);
      channel.Wait(absl::Milliseconds(100));
    }
    return absl::DeadlineExceededError("no frame");
  }
  Maker maker_;
};

TYPED_TEST_SUITE_P(ChannelContract);

TYPED_TEST_P(ChannelContract, FramesArriveWholeAndInOrderInBothDirections) {
  auto [a, b] = this->maker_.Make();
  for (uint64_t i = 1; i <= 50; ++i) {
    ASSERT_TRUE(a->Send(this->Numbered(i, i * 100)).ok());
    ASSERT_TRUE(b->Send(this->Numbered(i + 1000)).ok());
  }
  for (uint64_t i = 1; i <= 50; ++i) {
    const auto at_b = this->Take(*b);
    ASSERT_TRUE(at_b.ok()) << at_b.status();
    EXPECT_EQ(at_b->request_id, i);
    EXPECT_EQ(at_b->body, this->Numbered(i, i * 100).body);
    EXPECT_EQ(this->Take(*a)->request_id, i + 1000);
  }
}

TYPED_TEST_P(ChannelContract, ReceiveReturnsNothingWhenNothingCame) {
  auto [a, b] = this->maker_.Make();
  const auto frame = a->Receive();
  ASSERT_TRUE(frame.ok());
  EXPECT_FALSE(frame->has_value());
  a->Wait(absl::Milliseconds(1));
  EXPECT_FALSE(a->Receive()->has_value());
}

TYPED_TEST_P(ChannelContract, WhatWasSentBeforeACloseStillArrivesAndThenTheCut) {
  auto [a, b] = this->maker_.Make();
  ASSERT_TRUE(a->Send(this->Numbered(1)).ok());
  ASSERT_TRUE(a->Send(this->Numbered(2)).ok());
  a->Close();
  EXPECT_EQ(this->Take(*b)->request_id, 1u);
  EXPECT_EQ(this->Take(*b)->request_id, 2u);
  EXPECT_TRUE(absl::IsUnavailable(this->Take(*b).status()));
  EXPECT_TRUE(absl::IsUnavailable(a->Send(this->Numbered(3))));
  EXPECT_TRUE(absl::IsUnavailable(a->Receive().status()));
}

TYPED_TEST_P(ChannelContract, ADestroyedEndIsACut) {
  auto [a, b] = this->maker_.Make();
  a.reset();
  EXPECT_TRUE(absl::IsUnavailable(this->Take(*b).status()));
}

TYPED_TEST_P(ChannelContract, ABodyOverItsBoundIsRefusedAndTheChannelLivesOn) {
  auto [a, b] = this->maker_.Make();
  EXPECT_EQ(FrameErrorOf(a->Send(this->Numbered(1, kBodyBytesMax + 1))), FrameError::kTooLarge);
  ASSERT_TRUE(a->Send(this->Numbered(2)).ok());
  EXPECT_EQ(this->Take(*b)->request_id, 2u);
}

TYPED_TEST_P(ChannelContract, ASlowReaderIsABoundedQueueNotAGrowingOne) {
  auto [a, b] = this->maker_.Make();
  absl::Status sent;
  int frames = 0;
  for (; sent.ok() && frames < 1000; ++frames) sent = a->Send(this->Numbered(1, kBodyBytesMax));
  EXPECT_TRUE(absl::IsResourceExhausted(sent)) << sent;
  EXPECT_LT(frames, 300);
  EXPECT_EQ(this->Take(*b)->body.size(), kBodyBytesMax);
}

REGISTER_TYPED_TEST_SUITE_P(ChannelContract, FramesArriveWholeAndInOrderInBothDirections,
                            ReceiveReturnsNothingWhenNothingCame,
                            WhatWasSentBeforeACloseStillArrivesAndThenTheCut, ADestroyedEndIsACut,
                            ABodyOverItsBoundIsRefusedAndTheChannelLivesOn,
                            ASlowReaderIsABoundedQueueNotAGrowingOne);

}  // namespace tide::wire

// The channel contract on each channel, and what each adds.
#include "wire/channel.h"

#include <sys/socket.h>

#include "contract/channel_contract.h"
#include "wire/loopback_channel.h"
#include "wire/unix_channel.h"

namespace tide::wire {
namespace {

struct UnixMaker {
  ChannelPair Make() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    return {std::make_unique<UnixChannel>(UniqueFd(ends[0])),
            std::make_unique<UnixChannel>(UniqueFd(ends[1]))};
  }
};

struct LoopbackMaker {
  ChannelPair Make() { return LoopbackPair(clock); }
  SimulatedClock clock;
};

struct SlowLoopbackMaker {
  ChannelPair Make() {
    return LoopbackPair(
        clock,
        {.seed = 7, .delay_min = absl::Milliseconds(1), .delay_max = absl::Milliseconds(90)});
  }
  SimulatedClock clock;
};

INSTANTIATE_TYPED_TEST_SUITE_P(Unix, ChannelContract, UnixMaker);
INSTANTIATE_TYPED_TEST_SUITE_P(Loopback, ChannelContract, LoopbackMaker);
INSTANTIATE_TYPED_TEST_SUITE_P(SlowLoopback, ChannelContract, SlowLoopbackMaker);

TEST(LoopbackChannelTest, TheSameSeedLosesTheSameFrames) {
  const auto survivors = [](uint64_t seed) {
    SimulatedClock clock;
    auto [a, b] = LoopbackPair(clock, {.seed = seed, .drop = 0.5});
    std::string got;
    for (uint64_t i = 0; i < 40; ++i) EXPECT_TRUE(a->Send({FrameKind::kBye, i, 0, ""}).ok());
    for (auto frame = b->Receive(); frame.ok() && *frame; frame = b->Receive()) {
      got += static_cast<char>('0' + (*frame)->request_id);
    }
    return got;
  };
  EXPECT_EQ(survivors(1), survivors(1));
  EXPECT_NE(survivors(1), survivors(2));
  EXPECT_LT(survivors(1).size(), 40u);
}

TEST(LoopbackChannelTest, ACutIsSeenByBothEnds) {
  SimulatedClock clock;
  auto [a, b] = LoopbackPair(clock, {.seed = 1, .cut = 1});
  EXPECT_TRUE(a->Send({FrameKind::kBye, 0, 0, ""}).ok());
  EXPECT_TRUE(absl::IsUnavailable(a->Send({FrameKind::kBye, 0, 0, ""})));
  EXPECT_TRUE(absl::IsUnavailable(b->Receive().status()));
}

TEST(UnixChannelTest, GarbageFromThePeerIsATypedError) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  UnixChannel channel((UniqueFd(ends[0])));
  ASSERT_EQ(send(ends[1], "GET / HTTP/1.1\r\n", 16, 0), 16);
  EXPECT_EQ(FrameErrorOf(channel.Receive().status()), FrameError::kBadMagic);
  close(ends[1]);
}

TEST(UnixChannelTest, AStreamThatEndsInsideAFrameIsTruncated) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  UnixChannel channel((UniqueFd(ends[0])));
  ASSERT_EQ(send(ends[1], "TIDE", 4, 0), 4);
  close(ends[1]);
  EXPECT_FALSE(channel.Receive()->has_value());
  EXPECT_EQ(FrameErrorOf(channel.Receive().status()), FrameError::kTruncated);
}

TEST(UnixChannelTest, ADescriptorThatTheProgramClosedIsLeftToWhoeverHasItsNumber) {
  int ends[2], others[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, others), 0);
  const UniqueFd peer(ends[1]), there(others[1]);
  {
    UnixChannel channel{UniqueFd(ends[0])};
    ASSERT_EQ(dup2(others[0], ends[0]), ends[0]);
    close(others[0]);
    ASSERT_EQ(write(there.get(), "theirs", 6), 6);
    EXPECT_TRUE(absl::IsUnavailable(channel.Receive().status()));
    EXPECT_TRUE(absl::IsUnavailable(channel.Send({FrameKind::kBye, 0, 0, ""})));
  }
  const UniqueFd theirs(ends[0]);
  char bytes[16];
  EXPECT_EQ(recv(theirs.get(), bytes, sizeof bytes, MSG_DONTWAIT), 6);
  EXPECT_EQ(recv(there.get(), bytes, sizeof bytes, MSG_DONTWAIT), -1);
}

TEST(UnixChannelTest, ConnectingToNobodySaysWhere) {
  const auto socket = ConnectUnix("/nonexistent/tided.sock");
  EXPECT_TRUE(absl::IsUnavailable(socket.status()));
  EXPECT_NE(socket.status().message().find("/nonexistent/tided.sock"), absl::string_view::npos);
}

}  // namespace
}  // namespace tide::wire

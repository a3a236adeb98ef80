// The secured stream between two ends in memory: proofs, TLS, and what an attacker may try.
#include "coordinator/frame_stream.h"

#include "cpp/coordinator/certificates.h"
#include "cpp/shm/child_process.h"
#include "gtest/gtest.h"
#include "wire/messages.h"

namespace tide::coordinator {
namespace {

constexpr char kSecret[] = "a secret of enough bytes";

/// One end, the bytes it has to say, and how it failed.
struct End {
  explicit End(LinkSide side, std::string secret = kSecret,
               std::shared_ptr<const TlsContext> tls = nullptr)
      : stream(SecureStream({.side = side, .secret = std::move(secret), .tls = std::move(tls)})) {
    status = stream->Begin(out);
  }
  void Feed(absl::string_view bytes) {
    if (status.ok()) status = stream->Feed(bytes, out);
  }
  void Say(wire::Message message) {
    ASSERT_TRUE(stream->Encode(*wire::EncodeMessage(std::move(message)), out).ok());
  }
  std::unique_ptr<FrameStream> stream;
  std::string out;
  absl::Status status;
};

/// Carries bytes until both are silent; `piece` at a time. Returns all that `a` said.
std::string Carry(End& a, End& b, size_t piece = 1 << 20) {
  std::string said;
  while (!a.out.empty() || !b.out.empty()) {
    const std::string from_a = std::exchange(a.out, ""), from_b = std::exchange(b.out, "");
    said += from_a;
    for (size_t i = 0; i < from_a.size(); i += piece) b.Feed(from_a.substr(i, piece));
    for (size_t i = 0; i < from_b.size(); i += piece) a.Feed(from_b.substr(i, piece));
  }
  return said;
}

struct Tls {
  explicit Tls(const std::string& name) {
    MakeCertificate(folder.path(), name);
    const std::string base = folder.path() + "/" + name;
    server = *TlsContext::Server({.certificate = base + ".crt", .key = base + ".key"});
    client = *TlsContext::Client({});
    checking = *TlsContext::Client({.authority = base + ".crt"});
  }
  testing::TempDir folder;
  std::shared_ptr<const TlsContext> server, client, checking;
};

TEST(FrameStreamTest, BothProveAndFramesFlowBothWays) {
  for (const size_t piece : {size_t{1}, size_t{7}, size_t{1} << 20}) {
    End node(LinkSide::kNode), coordinator(LinkSide::kCoordinator);
    Carry(node, coordinator, piece);
    ASSERT_TRUE(node.stream->open() && coordinator.stream->open()) << piece;
    node.Say(wire::Lease{.seq = 5});
    coordinator.Say(wire::Lease{.seq = 6, .lease_ms = 7});
    Carry(node, coordinator, piece);
    const auto at_coordinator = coordinator.stream->Next();
    const auto at_node = node.stream->Next();
    EXPECT_EQ(std::get<wire::Lease>(*wire::DecodeMessage(**at_coordinator)).seq, 5);
    EXPECT_EQ(std::get<wire::Lease>(*wire::DecodeMessage(**at_node)).lease_ms, 7);
  }
}

TEST(FrameStreamTest, AnotherSecretIsRefusedByEitherSide) {
  End node(LinkSide::kNode, "a wrong secret of bytes"), coordinator(LinkSide::kCoordinator);
  Carry(node, coordinator);
  EXPECT_TRUE(absl::IsPermissionDenied(coordinator.status)) << coordinator.status;
  EXPECT_FALSE(node.stream->open() || coordinator.stream->open());
}

TEST(FrameStreamTest, ARecordedConnectionIsWorthNothingLater) {
  End node(LinkSide::kNode), coordinator(LinkSide::kCoordinator);
  std::string recorded = Carry(node, coordinator);
  node.Say(wire::Finish{.key = "job"});
  recorded += Carry(node, coordinator);
  End later(LinkSide::kCoordinator);
  later.Feed(recorded);
  EXPECT_TRUE(absl::IsPermissionDenied(later.status)) << later.status;
  EXPECT_FALSE(later.stream->open());
}

TEST(FrameStreamTest, ARepeatedFrameEndsTheConnection) {
  End node(LinkSide::kNode), coordinator(LinkSide::kCoordinator);
  Carry(node, coordinator);
  node.Say(wire::Finish{.key = "job"});
  coordinator.Feed(node.out + node.out);
  EXPECT_TRUE(coordinator.stream->Next()->has_value());
  EXPECT_TRUE(absl::IsPermissionDenied(coordinator.stream->Next().status()));
}

TEST(FrameStreamTest, NothingIsTakenBeforeTheProofAndLittleIsRead) {
  const auto say = [](wire::Message message) {
    return *wire::EncodeFrame(*wire::EncodeMessage(std::move(message)));
  };
  for (const std::string& bytes :
       {say(wire::Hello{.role = wire::Role::kNode}), say(wire::Join{.node = "n", .devices = 1}),
        say(wire::Answer{}), say(wire::Challenge{.nonce = "1"}), say(wire::Proof{.mac = "00"}),
        std::string(5000, 'x')}) {
    End coordinator(LinkSide::kCoordinator);
    coordinator.Feed(bytes);
    EXPECT_FALSE(coordinator.status.ok());
    EXPECT_FALSE(coordinator.stream->open());
    EXPECT_FALSE(coordinator.stream->Next()->has_value());
  }
  End coordinator(LinkSide::kCoordinator);  // a frame of the largest body, byte by byte
  const std::string large = say(wire::Event{.kind = "x", .text = std::string(60'000, 'x')});
  for (size_t i = 0; i < large.size() && coordinator.status.ok(); ++i)
    coordinator.Feed(large.substr(i, 1));
  EXPECT_TRUE(absl::IsPermissionDenied(coordinator.status)) << coordinator.status;
}

TEST(FrameStreamTest, APeerOfAnotherVersionIsToldSoBeforeTheSecretCounts) {
  End coordinator(LinkSide::kCoordinator);
  std::string bytes = *wire::EncodeFrame(*wire::EncodeMessage(wire::Proof{.mac = "00"}));
  bytes[4] = 9;  // the version
  coordinator.Feed(bytes);
  EXPECT_EQ(wire::FrameErrorOf(coordinator.status), wire::FrameError::kWrongVersion);
  EXPECT_NE(coordinator.status.message().find("version 9"), absl::string_view::npos);
}

TEST(FrameStreamTest, AConnectionCutAtAnyByteLeavesNobodyIn) {
  End node(LinkSide::kNode), coordinator(LinkSide::kCoordinator);
  const std::string challenge = coordinator.out;
  node.Feed(challenge);
  const std::string proof = node.out;
  for (size_t cut = 0; cut < proof.size(); ++cut) {
    End fresh(LinkSide::kCoordinator);
    fresh.Feed(proof.substr(0, cut));
    EXPECT_FALSE(fresh.stream->open()) << cut;
  }
}

TEST(FrameStreamTest, OverTlsTheSameAndAnEavesdropperReadsNothing) {
  const Tls tls("coordinator");
  for (const size_t piece : {size_t{3}, size_t{1} << 20}) {
    End node(LinkSide::kNode, kSecret, tls.client);
    End coordinator(LinkSide::kCoordinator, kSecret, tls.server);
    std::string heard = Carry(node, coordinator, piece);
    ASSERT_TRUE(node.stream->open() && coordinator.stream->open())
        << node.status << coordinator.status;
    node.Say(wire::Finish{.key = "jobs-have-names"});
    heard += Carry(node, coordinator, piece);
    EXPECT_TRUE(coordinator.stream->Next()->has_value());
    EXPECT_EQ(heard.find("jobs-have-names"), std::string::npos);
  }
}

TEST(FrameStreamTest, ACertificateOfSomebodyElseIsRefusedWhenOneIsAskedFor) {
  const Tls ours("ours"), theirs("theirs");
  End node(LinkSide::kNode, kSecret, ours.checking);
  End coordinator(LinkSide::kCoordinator, kSecret, theirs.server);
  Carry(node, coordinator);
  EXPECT_TRUE(absl::IsPermissionDenied(node.status)) << node.status;
  End good(LinkSide::kNode, kSecret, ours.checking);
  End known(LinkSide::kCoordinator, kSecret, ours.server);
  Carry(good, known);
  EXPECT_TRUE(good.stream->open()) << good.status;
}

TEST(FrameStreamTest, WhoStandsBetweenTwoTlsSessionsCannotPassTheProofOn) {
  // The one in the middle has a certificate of its own, which the node does not check, and carries
  // every decrypted frame over unchanged.
  const Tls honest("honest"), middle("middle");
  End node(LinkSide::kNode, kSecret, middle.client);
  End coordinator(LinkSide::kCoordinator, kSecret, honest.server);
  TlsSession to_node(middle.server), to_coordinator(honest.client);
  std::string for_node, for_coordinator, plain;
  ASSERT_TRUE(to_coordinator.Shake(for_coordinator).ok());
  for (int round = 0; round < 20; ++round) {
    plain.clear();
    to_node.Feed(std::exchange(node.out, ""), plain, for_node).IgnoreError();
    EXPECT_TRUE(plain.empty() || to_coordinator.Write(plain, for_coordinator).ok());
    coordinator.Feed(std::exchange(for_coordinator, ""));
    plain.clear();
    to_coordinator.Feed(std::exchange(coordinator.out, ""), plain, for_coordinator).IgnoreError();
    EXPECT_TRUE(plain.empty() || to_node.Write(plain, for_node).ok());
    node.Feed(std::exchange(for_node, ""));
  }
  EXPECT_TRUE(absl::IsPermissionDenied(coordinator.status)) << coordinator.status;
  EXPECT_FALSE(coordinator.stream->open());
}

}  // namespace
}  // namespace tide::coordinator

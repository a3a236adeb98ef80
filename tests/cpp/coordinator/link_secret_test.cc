// Secrets, proofs and seals.
#include "coordinator/link_secret.h"

#include <sys/stat.h>

#include <fstream>

#include "absl/strings/escaping.h"
#include "cpp/shm/child_process.h"
#include "gtest/gtest.h"

namespace tide::coordinator {
namespace {

constexpr char kSecret[] = "a secret of enough bytes";
const LinkNonces kNonces = {"1111", "2222", ""};

wire::Frame Report(uint64_t number) {
  return {wire::FrameKind::kReport, number, 7, "body " + std::to_string(number)};
}

TEST(LinkSecretTest, TheCodeIsHmacSha256OfRfc4231) {
  EXPECT_EQ(absl::BytesToHexString(Hmac("Jefe", "what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

TEST(LinkSecretTest, AFileThatOthersMayReadIsNoSecret) {
  testing::TempDir folder;
  const std::string path = folder.path() + "/secret";
  std::ofstream(path) << kSecret << "\n";
  chmod(path.c_str(), 0640);
  EXPECT_TRUE(absl::IsPermissionDenied(ReadSecret(path).status()));
  chmod(path.c_str(), 0600);
  EXPECT_EQ(*ReadSecret(path), kSecret);
  std::ofstream(path) << "short";
  EXPECT_TRUE(absl::IsInvalidArgument(ReadSecret(path).status()));
  EXPECT_TRUE(absl::IsNotFound(ReadSecret(folder.path() + "/none").status()));
}

TEST(LinkSecretTest, AProofIsOfOneSecretOneSideAndOneConnection) {
  const std::string proof = LinkProof(kSecret, kNonces, LinkSide::kNode);
  EXPECT_EQ(proof, LinkProof(kSecret, kNonces, LinkSide::kNode));
  EXPECT_NE(proof, LinkProof(kSecret, kNonces, LinkSide::kCoordinator));
  EXPECT_NE(proof, LinkProof("another secret of enough", kNonces, LinkSide::kNode));
  EXPECT_NE(proof, LinkProof(kSecret, {"1111", "2223", ""}, LinkSide::kNode));
  EXPECT_NE(proof, LinkProof(kSecret, {"11112", "222", ""}, LinkSide::kNode));
  EXPECT_NE(proof, LinkProof(kSecret, {"1111", "2222", "tls"}, LinkSide::kNode));
}

TEST(LinkSecretTest, SealedFramesOpenInOrderAndReadAsBefore) {
  FrameSeal send(kSecret, kNonces, LinkSide::kNode), receive(kSecret, kNonces, LinkSide::kNode);
  for (uint64_t i = 1; i < 100; ++i) {
    wire::Frame frame = Report(i);
    send.Close(frame);
    ASSERT_TRUE(receive.Open(frame).ok());
    EXPECT_EQ(frame.body, Report(i).body);
    EXPECT_EQ(frame.flags, 0u);
  }
}

TEST(LinkSecretTest, AFrameThatIsRepeatedLeftOutOrChangedDoesNotOpen) {
  const auto sealed = [](int count) {
    FrameSeal send(kSecret, kNonces, LinkSide::kNode);
    std::vector<wire::Frame> frames;
    for (int i = 1; i <= count; ++i) {
      frames.push_back(Report(static_cast<uint64_t>(i)));
      send.Close(frames.back());
    }
    return frames;
  };
  const auto refused = [](std::vector<wire::Frame> frames) {
    FrameSeal receive(kSecret, kNonces, LinkSide::kNode);
    for (wire::Frame& frame : frames) {
      if (!receive.Open(frame).ok()) return true;
    }
    return false;
  };
  std::vector<wire::Frame> frames = sealed(3);
  EXPECT_FALSE(refused(frames));
  EXPECT_TRUE(refused({frames[0], frames[0]})) << "repeated";
  EXPECT_TRUE(refused({frames[1]})) << "left out";
  EXPECT_TRUE(refused({frames[1], frames[0]})) << "out of order";
  for (size_t i = 0; i < frames[0].body.size(); ++i) {
    std::vector<wire::Frame> changed = {frames[0]};
    changed[0].body[i] = static_cast<char>(changed[0].body[i] ^ 1);
    EXPECT_TRUE(refused(changed)) << "byte " << i;
  }
  std::vector<wire::Frame> other = {frames[0]};
  other[0].request_id = 9;
  EXPECT_TRUE(refused(other)) << "another request";
  other = {frames[0]};
  other[0].kind = wire::FrameKind::kFinish;
  EXPECT_TRUE(refused(other)) << "another kind";
  EXPECT_TRUE(refused({Report(1)})) << "no seal";
  FrameSeal elsewhere(kSecret, {"3333", "2222", ""}, LinkSide::kNode);
  EXPECT_FALSE(elsewhere.Open(frames[0]).ok()) << "another connection";
}

}  // namespace
}  // namespace tide::coordinator

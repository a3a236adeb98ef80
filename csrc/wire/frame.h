// Frames: the fixed header of docs/reference/protocol.md and a strict decoder for a stream of them.
#pragma once

#include <bit>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tide::wire {

static_assert(std::endian::native == std::endian::little, "the header is little-endian");

inline constexpr uint32_t kFrameMagic = 0x45444954;  // "TIDE"
inline constexpr uint16_t kProtocolVersion = 1;
inline constexpr size_t kBodyBytesMax = 64 << 10;
inline constexpr size_t kSnapshotBytesMax = 4 << 20;  // of an Answer
inline constexpr uint32_t kFlagSealed = 1;            // the body ends with a seal
inline constexpr size_t kSealBytes = 24;              // sequence number and code, after the body

/// Numbers are never reused.
enum class FrameKind : uint16_t {
  kHello = 1,
  kWelcome = 2,
  kRegister = 3,
  kReport = 4,
  kEvent = 5,
  kGrantAck = 6,
  kOrderAck = 7,
  kNeedMemory = 8,
  kBye = 9,
  kGrant = 10,
  kOrder = 11,
  kQuery = 12,
  kCommand = 13,
  kAnswer = 14,
  kChallenge = 15,
  kProof = 16,
  kJoin = 17,
  kLease = 18,
  kSubmit = 19,
  kFinish = 20,
  kAllocation = 21,
  kAllocationAck = 22,
  kAdvance = 23,
  kReserve = 24,
  kMove = 25,
  kDrain = 26,
};

/// "Hello"; "unknown" for a number that is not a kind.
absl::string_view FrameKindName(FrameKind kind);
/// Inverse of FrameKindName; nothing for another word.
std::optional<FrameKind> FrameKindFromName(absl::string_view name);

/// As it lies on the wire.
struct FrameHeader {
  uint32_t magic;
  uint16_t version;
  uint16_t kind;
  uint32_t flags;
  uint32_t body_size;
  uint64_t request_id;
  uint64_t generation;
  uint64_t body_checksum;
  uint64_t header_checksum;
};
static_assert(sizeof(FrameHeader) == 48);

struct Frame {
  FrameKind kind = FrameKind::kHello;
  uint64_t request_id = 0;
  uint64_t generation = 0;
  std::string body;
  uint32_t flags = 0;
};

enum class FrameError {
  kNone,
  kBadMagic,
  kWrongVersion,
  kHeaderCorrupt,
  kUnknownFlags,
  kUnknownKind,
  kTooLarge,
  kBodyCorrupt,
  kTruncated,
};
/// Which frame error a status of this file carries; kNone for any other status.
FrameError FrameErrorOf(const absl::Status& status);

/// Header and body as bytes. Errors: a body over the bound of its kind (FrameError::kTooLarge).
absl::StatusOr<std::string> EncodeFrame(const Frame& frame);

enum class Snapshots { kRefuse, kAccept };
enum class Seals { kRefuse, kAccept };

/// Cuts a byte stream into frames. The first error is final: every later call returns it again.
class FrameDecoder {
 public:
  /// A daemon refuses large Answers, since nobody may send it one.
  /// Sealed frames come over TCP alone, and whoever accepts them checks the seal.
  explicit FrameDecoder(Snapshots snapshots, Seals seals = Seals::kRefuse)
      : snapshots_(snapshots), seals_(seals) {}

  /// Appends bytes as they came; holds at most what it was fed and did not return yet.
  void Feed(absl::string_view bytes);
  /// The next whole frame, nothing when more bytes are needed, or a FrameError.
  absl::StatusOr<std::optional<Frame>> Next();
  /// To call at the end of the stream. Errors: FrameError::kTruncated inside a frame.
  absl::Status AtEnd() const;
  size_t buffered_bytes() const { return buffer_.size() - start_; }

 private:
  absl::Status CheckHeader(const FrameHeader& header) const;

  const Snapshots snapshots_;
  const Seals seals_;
  std::string buffer_;
  size_t start_ = 0;  // bytes of buffer_ already returned as frames
  absl::Status failed_;
};

}  // namespace tide::wire

// Encoding and strict decoding of frames.
#include "wire/frame.h"

#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace tide::wire {
namespace {

constexpr absl::string_view kErrorUrl = "torchtide/frame_error";

constexpr absl::string_view kKindNames[] = {
    "unknown",    "Hello",         "Welcome", "Register", "Report", "Event",  "GrantAck",
    "OrderAck",   "NeedMemory",    "Bye",     "Grant",    "Order",  "Query",  "Command",
    "Answer",     "Challenge",     "Proof",   "Join",     "Lease",  "Submit", "Finish",
    "Allocation", "AllocationAck", "Advance", "Reserve",  "Move",   "Drain"};
constexpr size_t kKindCount = sizeof(kKindNames) / sizeof(kKindNames[0]);

absl::Status Fail(FrameError error, absl::string_view text) {
  absl::Status status = absl::InvalidArgumentError(text);
  status.SetPayload(kErrorUrl, absl::Cord(absl::StrCat(static_cast<int>(error))));
  return status;
}

size_t BodyBound(FrameKind kind, Snapshots snapshots, uint32_t flags) {
  const bool large = kind == FrameKind::kAnswer && snapshots == Snapshots::kAccept;
  return (large ? kSnapshotBytesMax : kBodyBytesMax) +
         ((flags & kFlagSealed) != 0 ? kSealBytes : 0);
}

absl::Status TooLarge(FrameKind kind, size_t size, size_t bound) {
  return Fail(FrameError::kTooLarge, absl::StrCat("too_large: a ", FrameKindName(kind), " body of ",
                                                  size, " bytes is over the bound of ", bound));
}

uint64_t HeaderChecksum(const FrameHeader& header) {
  return XXH3_64bits(&header, offsetof(FrameHeader, header_checksum));
}

}  // namespace

absl::string_view FrameKindName(FrameKind kind) {
  const size_t index = static_cast<size_t>(kind);
  return index < kKindCount ? kKindNames[index] : kKindNames[0];
}

std::optional<FrameKind> FrameKindFromName(absl::string_view name) {
  for (size_t index = 1; index < kKindCount; ++index) {
    if (kKindNames[index] == name) return static_cast<FrameKind>(index);
  }
  return std::nullopt;
}

FrameError FrameErrorOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kErrorUrl);
  if (!payload) return FrameError::kNone;
  return static_cast<FrameError>(std::stoi(std::string(*payload)));
}

absl::StatusOr<std::string> EncodeFrame(const Frame& frame) {
  const size_t bound = BodyBound(frame.kind, Snapshots::kAccept, frame.flags);
  if (frame.body.size() > bound) return TooLarge(frame.kind, frame.body.size(), bound);
  FrameHeader header = {
      .magic = kFrameMagic,
      .version = kProtocolVersion,
      .kind = static_cast<uint16_t>(frame.kind),
      .flags = frame.flags,
      .body_size = static_cast<uint32_t>(frame.body.size()),
      .request_id = frame.request_id,
      .generation = frame.generation,
      .body_checksum = XXH3_64bits(frame.body.data(), frame.body.size()),
      .header_checksum = 0,
  };
  header.header_checksum = HeaderChecksum(header);
  std::string bytes(sizeof header + frame.body.size(), '\0');
  std::memcpy(bytes.data(), &header, sizeof header);
  std::memcpy(bytes.data() + sizeof header, frame.body.data(), frame.body.size());
  return bytes;
}

void FrameDecoder::Feed(absl::string_view bytes) {
  if (!failed_.ok()) return;
  if (start_ > 0 && start_ >= buffer_.size() / 2) {
    buffer_.erase(0, start_);
    start_ = 0;
  }
  buffer_.append(bytes.data(), bytes.size());
}

absl::Status FrameDecoder::CheckHeader(const FrameHeader& header) const {
  if (header.magic != kFrameMagic) {
    return Fail(FrameError::kBadMagic, "bad_magic: the peer does not speak the torchtide protocol");
  }
  if (header.version != kProtocolVersion) {
    return Fail(
        FrameError::kWrongVersion,
        absl::StrCat("wrong_version: the peer speaks protocol version ", header.version,
                     ", this side ", kProtocolVersion, "; use the same torchtide on both sides"));
  }
  if (header.header_checksum != HeaderChecksum(header)) {
    return Fail(FrameError::kHeaderCorrupt, "header_corrupt: the header's checksum differs");
  }
  const uint32_t known = seals_ == Seals::kAccept ? kFlagSealed : 0;
  if ((header.flags & ~known) != 0) {
    return Fail(FrameError::kUnknownFlags, absl::StrCat("unknown_flags: ", header.flags));
  }
  if (header.kind == 0 || header.kind >= kKindCount) {
    return Fail(FrameError::kUnknownKind, absl::StrCat("unknown_kind: ", header.kind));
  }
  const FrameKind kind = static_cast<FrameKind>(header.kind);
  const size_t bound = BodyBound(kind, snapshots_, header.flags);
  if (header.body_size > bound) return TooLarge(kind, header.body_size, bound);
  return absl::OkStatus();
}

absl::StatusOr<std::optional<Frame>> FrameDecoder::Next() {
  if (!failed_.ok()) return failed_;
  const absl::string_view bytes = absl::string_view(buffer_).substr(start_);
  FrameHeader header{};
  std::memcpy(&header, bytes.data(), std::min(bytes.size(), sizeof header));
  // Magic and version keep their place in every version: refuse a foreign peer at its first 8
  // bytes.
  const bool foreign =
      bytes.size() >= 8 && (header.magic != kFrameMagic || header.version != kProtocolVersion);
  if (bytes.size() < sizeof header && !foreign) return std::optional<Frame>();
  failed_ = CheckHeader(header);
  if (!failed_.ok()) return failed_;
  if (bytes.size() < sizeof header + header.body_size) return std::optional<Frame>();
  const absl::string_view body = bytes.substr(sizeof header, header.body_size);
  if (XXH3_64bits(body.data(), body.size()) != header.body_checksum) {
    failed_ = Fail(FrameError::kBodyCorrupt, "body_corrupt: the body's checksum differs");
    return failed_;
  }
  start_ += sizeof header + header.body_size;
  return std::optional<Frame>(Frame{static_cast<FrameKind>(header.kind), header.request_id,
                                    header.generation, std::string(body), header.flags});
}

absl::Status FrameDecoder::AtEnd() const {
  if (!failed_.ok()) return failed_;
  if (buffered_bytes() == 0) return absl::OkStatus();
  return Fail(FrameError::kTruncated, absl::StrCat("truncated: the stream ended ", buffered_bytes(),
                                                   " bytes into a frame"));
}

}  // namespace tide::wire

// The shared secret of a cluster and what is derived from it for one connection: proofs and seals.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "wire/frame.h"

namespace tide::coordinator {

inline constexpr size_t kSecretBytesMin = 16;

/// The secret in `path` without the white space at its end. Errors: NotFound, PermissionDenied when
/// others may read the file or it is another user's, InvalidArgument below kSecretBytesMin.
absl::StatusOr<std::string> ReadSecret(const std::string& path);

/// 32 hexadecimal digits from the operating system's generator.
std::string DrawNonce();

/// HMAC-SHA256 (RFC 2104) as raw bytes.
std::string Hmac(absl::string_view key, absl::string_view text);
/// Takes as long whatever differs.
bool SameSecretly(absl::string_view a, absl::string_view b);

enum class LinkSide { kCoordinator, kNode };

/// Both nonces, and what is peculiar to the TLS session below (empty without): a proof made for one
/// connection is worth nothing on another.
struct LinkNonces {
  std::string coordinator, node, binding;
};

/// The proof that `side` knows the secret, in hexadecimal.
std::string LinkProof(absl::string_view secret, const LinkNonces& nonces, LinkSide side);

/// Numbers and signs the frames that one side sends: what is changed, left out, repeated or brought
/// from elsewhere does not open. Not thread-safe.
class FrameSeal {
 public:
  FrameSeal(absl::string_view secret, const LinkNonces& nonces, LinkSide sender);
  ~FrameSeal();
  FrameSeal(const FrameSeal&) = delete;
  FrameSeal& operator=(const FrameSeal&) = delete;

  /// Appends the seal to the body.
  void Close(wire::Frame& frame);
  /// Takes the seal off. Errors: PermissionDenied for a frame that is not the next one.
  absl::Status Open(wire::Frame& frame);

 private:
  struct Mac;  // keyed once: a key schedule for each frame would double the cost
  std::string Code(const wire::Frame& frame, size_t body_size);

  const std::unique_ptr<Mac> mac_;
  uint64_t next_ = 1;
};

}  // namespace tide::coordinator

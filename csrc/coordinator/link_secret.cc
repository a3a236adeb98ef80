// Proofs and seals by HMAC-SHA256.
#include "coordinator/link_secret.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/unique_fd.h"

namespace tide::coordinator {
namespace {

constexpr size_t kMacBytes = 32;
constexpr size_t kCodeBytes = wire::kSealBytes - sizeof(uint64_t);  // 128 bits of the code
constexpr size_t kSecretBytesMax = 4096;

/// Each field with its length, so that no two lists of fields read the same.
std::string Joined(std::initializer_list<absl::string_view> fields) {
  std::string text;
  for (const absl::string_view field : fields) absl::StrAppend(&text, field.size(), ":", field);
  return text;
}

std::string LinkKey(absl::string_view secret, const LinkNonces& nonces) {
  return Hmac(secret,
              Joined({"torchtide link 1", nonces.coordinator, nonces.node, nonces.binding}));
}

const char* SideName(LinkSide side) { return side == LinkSide::kNode ? "node" : "coordinator"; }

}  // namespace

absl::StatusOr<std::string> ReadSecret(const std::string& path) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return ErrnoStatus(absl::StrCat("cannot read the secret ", path));
  struct stat status {};
  if (fstat(file.get(), &status) != 0) return ErrnoStatus(path);
  if (!S_ISREG(status.st_mode) || (status.st_mode & 077) != 0 || status.st_uid != geteuid()) {
    return absl::PermissionDeniedError(absl::StrCat(
        path, " must be a file of yours that nobody else may read; `chmod 600 ", path, "`"));
  }
  std::string text(kSecretBytesMax, '\0');
  const ssize_t got = read(file.get(), text.data(), text.size());
  if (got < 0) return ErrnoStatus(absl::StrCat("cannot read the secret ", path));
  text.resize(static_cast<size_t>(got));
  absl::StripTrailingAsciiWhitespace(&text);
  if (text.size() < kSecretBytesMin) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " holds ", text.size(), " bytes; a secret has at least ",
                     kSecretBytesMin, ": `head -c 32 /dev/urandom | base64 > ", path, "`"));
  }
  return text;
}

std::string DrawNonce() {
  std::string bytes(16, '\0');
  RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), static_cast<int>(bytes.size()));
  return absl::BytesToHexString(bytes);
}

std::string Hmac(absl::string_view key, absl::string_view text) {
  std::string mac(kMacBytes, '\0');
  unsigned int size = kMacBytes;
  HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
       reinterpret_cast<const unsigned char*>(text.data()), text.size(),
       reinterpret_cast<unsigned char*>(mac.data()), &size);
  return mac;
}

bool SameSecretly(absl::string_view a, absl::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::string LinkProof(absl::string_view secret, const LinkNonces& nonces, LinkSide side) {
  return absl::BytesToHexString(Hmac(LinkKey(secret, nonces), Joined({"proof", SideName(side)})));
}

struct FrameSeal::Mac {
  explicit Mac(const std::string& key) {
    EVP_MAC* const algorithm = EVP_MAC_fetch(nullptr, "HMAC", nullptr);
    context = EVP_MAC_CTX_new(algorithm);
    EVP_MAC_free(algorithm);
    char digest[] = "SHA256";
    const OSSL_PARAM parameters[] = {OSSL_PARAM_construct_utf8_string("digest", digest, 0),
                                     OSSL_PARAM_construct_end()};
    EVP_MAC_init(context, reinterpret_cast<const unsigned char*>(key.data()), key.size(),
                 parameters);
  }
  ~Mac() { EVP_MAC_CTX_free(context); }
  EVP_MAC_CTX* context = nullptr;
};

FrameSeal::FrameSeal(absl::string_view secret, const LinkNonces& nonces, LinkSide sender)
    : mac_(std::make_unique<Mac>(
          Hmac(LinkKey(secret, nonces), Joined({"seal", SideName(sender)})))) {}

FrameSeal::~FrameSeal() = default;

std::string FrameSeal::Code(const wire::Frame& frame, size_t body_size) {
  const uint64_t head[] = {next_, static_cast<uint64_t>(frame.kind), frame.request_id,
                           frame.generation};
  unsigned char code[kMacBytes];
  size_t size = 0;
  EVP_MAC_init(mac_->context, nullptr, 0, nullptr);  // the same key again
  EVP_MAC_update(mac_->context, reinterpret_cast<const unsigned char*>(head), sizeof head);
  EVP_MAC_update(mac_->context, reinterpret_cast<const unsigned char*>(frame.body.data()),
                 body_size);
  EVP_MAC_final(mac_->context, code, &size, sizeof code);
  return std::string(reinterpret_cast<const char*>(code), kCodeBytes);
}

void FrameSeal::Close(wire::Frame& frame) {
  const std::string code = Code(frame, frame.body.size());
  frame.body.append(reinterpret_cast<const char*>(&next_), sizeof next_);
  frame.body += code;
  frame.flags |= wire::kFlagSealed;
  ++next_;
}

absl::Status FrameSeal::Open(wire::Frame& frame) {
  if ((frame.flags & wire::kFlagSealed) == 0 || frame.body.size() < wire::kSealBytes) {
    return absl::PermissionDeniedError("a frame without a seal came over a sealed connection");
  }
  const size_t body_size = frame.body.size() - wire::kSealBytes;
  uint64_t number = 0;
  std::memcpy(&number, frame.body.data() + body_size, sizeof number);
  const absl::string_view code = absl::string_view(frame.body).substr(body_size + sizeof number);
  if (number != next_ || !SameSecretly(code, Code(frame, body_size))) {
    return absl::PermissionDeniedError(
        absl::StrCat("the seal of frame ", next_,
                     " does not fit: it was changed, repeated or comes from another connection"));
  }
  frame.body.resize(body_size);
  frame.flags &= ~wire::kFlagSealed;
  ++next_;
  return absl::OkStatus();
}

}  // namespace tide::coordinator

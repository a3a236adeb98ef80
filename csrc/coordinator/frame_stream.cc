// The two streams.
#include "coordinator/frame_stream.h"

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "wire/messages.h"

namespace tide::coordinator {
namespace {

constexpr size_t kUnprovenBytesMax = 4096;

class Plain final : public FrameStream {
 public:
  absl::Status Feed(absl::string_view bytes, std::string&) override {
    decoder_.Feed(bytes);
    return absl::OkStatus();
  }
  absl::StatusOr<std::optional<wire::Frame>> Next() override { return decoder_.Next(); }
  absl::Status Encode(const wire::Frame& frame, std::string& out) override {
    TIDE_ASSIGN_OR_RETURN(const std::string bytes, wire::EncodeFrame(frame));
    out += bytes;
    return absl::OkStatus();
  }
  bool open() const override { return true; }

 private:
  wire::FrameDecoder decoder_{wire::Snapshots::kRefuse};
};

class Secure final : public FrameStream {
 public:
  explicit Secure(SecureOptions options)
      : options_(std::move(options)),
        decoder_(is_node() ? wire::Snapshots::kAccept : wire::Snapshots::kRefuse,
                 wire::Seals::kAccept) {
    if (options_.tls) tls_ = std::make_unique<TlsSession>(options_.tls);
  }

  absl::Status Begin(std::string& out) override {
    if (tls_ && is_node()) TIDE_RETURN_IF_ERROR(tls_->Shake(out));
    return SayChallenge(out);
  }
  absl::Status Feed(absl::string_view bytes, std::string& out) override;
  absl::StatusOr<std::optional<wire::Frame>> Next() override;
  absl::Status Encode(const wire::Frame& frame, std::string& out) override;
  bool open() const override { return open_; }

 private:
  bool is_node() const { return options_.side == LinkSide::kNode; }
  bool can_write() const { return !tls_ || tls_->established(); }

  absl::Status Say(wire::Message message, std::string& out) {
    TIDE_ASSIGN_OR_RETURN(const wire::Frame frame, wire::EncodeMessage(std::move(message)));
    return Put(frame, out);
  }
  absl::Status Put(const wire::Frame& frame, std::string& out) {
    TIDE_ASSIGN_OR_RETURN(const std::string bytes, wire::EncodeFrame(frame));
    if (tls_) return tls_->Write(bytes, out);
    out += bytes;
    return absl::OkStatus();
  }
  absl::Status SayChallenge(std::string& out) {
    if (is_node() || challenged_ || !can_write()) return absl::OkStatus();
    challenged_ = true;
    nonces_.coordinator = DrawNonce();
    return Say(wire::Challenge{.nonce = nonces_.coordinator}, out);
  }
  absl::Status Greet(const wire::Frame& frame, std::string& out);
  absl::Status OnChallenge(const wire::Challenge& challenge, std::string& out);
  absl::Status OnProof(const wire::Proof& proof, std::string& out);

  const SecureOptions options_;
  std::unique_ptr<TlsSession> tls_;
  wire::FrameDecoder decoder_;
  LinkNonces nonces_;
  std::unique_ptr<FrameSeal> send_, receive_;
  bool challenged_ = false, open_ = false;
};

absl::Status Secure::Feed(absl::string_view bytes, std::string& out) {
  if (tls_) {
    std::string plain;
    TIDE_RETURN_IF_ERROR(tls_->Feed(bytes, plain, out));
    decoder_.Feed(plain);
    TIDE_RETURN_IF_ERROR(SayChallenge(out));
  } else {
    decoder_.Feed(bytes);
  }
  while (!open_) {
    TIDE_ASSIGN_OR_RETURN(const auto frame, decoder_.Next());
    if (!frame) break;
    TIDE_RETURN_IF_ERROR(Greet(*frame, out));
  }
  if (!open_ && decoder_.buffered_bytes() > kUnprovenBytesMax) {
    return absl::PermissionDeniedError("too many bytes before the secret was proven");
  }
  return absl::OkStatus();
}

absl::Status Secure::Greet(const wire::Frame& frame, std::string& out) {
  if (frame.flags != 0 || frame.body.size() > kUnprovenBytesMax)
    return absl::PermissionDeniedError("the secret has not been proven yet");
  TIDE_ASSIGN_OR_RETURN(const wire::Message message, wire::DecodeMessage(frame));
  if (const auto* challenge = std::get_if<wire::Challenge>(&message); challenge && is_node())
    return OnChallenge(*challenge, out);
  if (const auto* proof = std::get_if<wire::Proof>(&message)) return OnProof(*proof, out);
  const auto* answer = std::get_if<wire::Answer>(&message);
  if (answer != nullptr && answer->error && is_node()) {
    return absl::PermissionDeniedError(absl::StrCat("refused: ", answer->error->message));
  }
  return absl::PermissionDeniedError(
      absl::StrCat(wire::FrameKindName(frame.kind), " came before the secret was proven"));
}

absl::Status Secure::OnChallenge(const wire::Challenge& challenge, std::string& out) {
  if (challenged_) return absl::PermissionDeniedError("a second challenge");
  challenged_ = true;
  nonces_ = {challenge.nonce, DrawNonce(), tls_ ? tls_->Binding() : ""};
  return Say(wire::Proof{.nonce = nonces_.node,
                         .mac = LinkProof(options_.secret, nonces_, LinkSide::kNode)},
             out);
}

absl::Status Secure::OnProof(const wire::Proof& proof, std::string& out) {
  if (!challenged_) return absl::PermissionDeniedError("a proof without a challenge");
  if (!is_node()) {
    nonces_.node = proof.nonce;
    nonces_.binding = tls_ ? tls_->Binding() : "";
  }
  const LinkSide theirs = is_node() ? LinkSide::kCoordinator : LinkSide::kNode;
  if (!SameSecretly(proof.mac, LinkProof(options_.secret, nonces_, theirs))) {
    return absl::PermissionDeniedError("the secret of the other side is another one");
  }
  if (!is_node()) {
    TIDE_RETURN_IF_ERROR(
        Say(wire::Proof{.mac = LinkProof(options_.secret, nonces_, LinkSide::kCoordinator)}, out));
  }
  const LinkSide ours = options_.side;
  send_ = std::make_unique<FrameSeal>(options_.secret, nonces_, ours);
  receive_ = std::make_unique<FrameSeal>(options_.secret, nonces_, theirs);
  open_ = true;
  return absl::OkStatus();
}

absl::StatusOr<std::optional<wire::Frame>> Secure::Next() {
  if (!open_) return std::optional<wire::Frame>();
  TIDE_ASSIGN_OR_RETURN(auto frame, decoder_.Next());
  if (frame) TIDE_RETURN_IF_ERROR(receive_->Open(*frame));
  return frame;
}

absl::Status Secure::Encode(const wire::Frame& frame, std::string& out) {
  if (open_) {
    wire::Frame sealed = frame;
    send_->Close(sealed);
    return Put(sealed, out);
  }
  if (frame.kind != wire::FrameKind::kAnswer)
    return absl::FailedPreconditionError("the secret has not been proven yet");
  return Put(frame, out);
}

}  // namespace

std::unique_ptr<FrameStream> PlainStream() { return std::make_unique<Plain>(); }

std::unique_ptr<FrameStream> SecureStream(SecureOptions options) {
  return std::make_unique<Secure>(std::move(options));
}

}  // namespace tide::coordinator

// OpenSSL with memory on both sides.
#include "coordinator/tls_session.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace tide::coordinator {
namespace {

constexpr char kBindingLabel[] = "EXPORTER-torchtide-link";
constexpr size_t kPieceBytes = 16 << 10;  // a record of TLS

std::string LibraryError() {
  const unsigned long code = ERR_get_error();
  ERR_clear_error();
  const char* const text = code == 0 ? nullptr : ERR_reason_error_string(code);
  return text == nullptr ? "no reason given" : text;
}

}  // namespace

struct TlsContext::Library {
  explicit Library(SSL_CTX* made) : context(made) {}
  ~Library() { SSL_CTX_free(context); }
  SSL_CTX* const context;
  bool server = false;
};

TlsContext::TlsContext(std::unique_ptr<Library> library) : library_(std::move(library)) {}
TlsContext::~TlsContext() = default;

absl::StatusOr<std::shared_ptr<const TlsContext>> TlsContext::Make(const Files& files,
                                                                   bool server) {
  auto library =
      std::make_unique<Library>(SSL_CTX_new(server ? TLS_server_method() : TLS_client_method()));
  SSL_CTX* const context = library->context;
  library->server = server;
  SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
  const auto refuse = [](const std::string& file) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot use ", file, " for TLS: ", LibraryError()));
  };
  if (server) {
    if (SSL_CTX_use_certificate_chain_file(context, files.certificate.c_str()) != 1)
      return refuse(files.certificate);
    if (SSL_CTX_use_PrivateKey_file(context, files.key.c_str(), SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(context) != 1) {
      return refuse(files.key);
    }
    SSL_CTX_set_num_tickets(context, 0);  // a session is never resumed
  } else if (!files.authority.empty()) {
    if (SSL_CTX_load_verify_locations(context, files.authority.c_str(), nullptr) != 1)
      return refuse(files.authority);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
  }
  return std::shared_ptr<const TlsContext>(new TlsContext(std::move(library)));
}

absl::StatusOr<std::shared_ptr<const TlsContext>> TlsContext::Server(const Files& files) {
  return Make(files, true);
}
absl::StatusOr<std::shared_ptr<const TlsContext>> TlsContext::Client(const Files& files) {
  return Make(files, false);
}

struct TlsSession::Library {
  explicit Library(SSL_CTX* context) : ssl(SSL_new(context)) {
    SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));  // owned by `ssl`
  }
  ~Library() { SSL_free(ssl); }
  SSL* const ssl;
};

TlsSession::TlsSession(std::shared_ptr<const TlsContext> context)
    : context_(std::move(context)),
      library_(std::make_unique<Library>(context_->library_->context)) {
  context_->library_->server ? SSL_set_accept_state(library_->ssl)
                             : SSL_set_connect_state(library_->ssl);
}
TlsSession::~TlsSession() = default;

bool TlsSession::established() const { return SSL_is_init_finished(library_->ssl) == 1; }

std::string TlsSession::Binding() const {
  std::string bytes(32, '\0');
  SSL_export_keying_material(library_->ssl, reinterpret_cast<unsigned char*>(bytes.data()),
                             bytes.size(), kBindingLabel, sizeof kBindingLabel - 1, nullptr, 0, 0);
  return bytes;
}

absl::Status TlsSession::Failed(int result, absl::string_view what) const {
  const int error = SSL_get_error(library_->ssl, result);
  if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return absl::OkStatus();
  if (error == SSL_ERROR_ZERO_RETURN) return absl::UnavailableError("the peer ended TLS");
  return absl::PermissionDeniedError(absl::StrCat("TLS ", what, ": ", LibraryError()));
}

void TlsSession::Drain(std::string& out) {
  char piece[kPieceBytes];
  BIO* const bio = SSL_get_wbio(library_->ssl);
  for (int got; (got = BIO_read(bio, piece, sizeof piece)) > 0;) {
    out.append(piece, static_cast<size_t>(got));
  }
}

absl::Status TlsSession::Shake(std::string& out) {
  if (established()) return absl::OkStatus();
  ERR_clear_error();
  const int result = SSL_do_handshake(library_->ssl);
  Drain(out);  // an alert that says why, too
  return result == 1 ? absl::OkStatus() : Failed(result, "handshake");
}

absl::Status TlsSession::Feed(absl::string_view bytes, std::string& plain, std::string& out) {
  BIO_write(SSL_get_rbio(library_->ssl), bytes.data(), static_cast<int>(bytes.size()));
  TIDE_RETURN_IF_ERROR(Shake(out));
  if (!established()) return absl::OkStatus();
  char piece[kPieceBytes];
  ERR_clear_error();
  int got = 0;
  while ((got = SSL_read(library_->ssl, piece, sizeof piece)) > 0) {
    plain.append(piece, static_cast<size_t>(got));
  }
  const absl::Status status = Failed(got, "read");
  Drain(out);
  return status;
}

absl::Status TlsSession::Write(absl::string_view plain, std::string& out) {
  if (!established()) return absl::FailedPreconditionError("the TLS handshake has not ended");
  ERR_clear_error();
  const int put =
      plain.empty() ? 1 : SSL_write(library_->ssl, plain.data(), static_cast<int>(plain.size()));
  Drain(out);  // memory takes all of it
  return put > 0 ? absl::OkStatus() : Failed(put, "write");
}

}  // namespace tide::coordinator

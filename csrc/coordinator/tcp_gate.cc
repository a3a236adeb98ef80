// Listening on TCP.
#include "coordinator/tcp_gate.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status.h"

namespace tide::coordinator {
namespace {

constexpr auto kGateRetry = std::chrono::milliseconds(100);

absl::Status NotAnAddress(absl::string_view text) {
  return absl::InvalidArgumentError(
      absl::StrCat("\"", text, "\" is no address; for instance tcp://127.0.0.1:7070"));
}

std::string Text(const asio::ip::tcp::endpoint& endpoint) {
  const std::string host = endpoint.address().to_string();
  return endpoint.address().is_v6() ? absl::StrCat("tcp://[", host, "]:", endpoint.port())
                                    : absl::StrCat("tcp://", host, ":", endpoint.port());
}

}  // namespace

absl::StatusOr<TcpAddress> ParseTcpAddress(absl::string_view text) {
  absl::string_view rest = text;
  if (!absl::ConsumePrefix(&rest, "tcp://")) return NotAnAddress(text);
  const size_t colon = rest.rfind(':');
  if (colon == rest.npos || colon == 0 || colon + 1 == rest.size()) return NotAnAddress(text);
  absl::string_view host = rest.substr(0, colon);
  const absl::string_view port = rest.substr(colon + 1);
  if (port.find_first_not_of("0123456789") != port.npos || port.size() > 5)
    return NotAnAddress(text);
  if (absl::ConsumePrefix(&host, "[") && !absl::ConsumeSuffix(&host, "]"))
    return NotAnAddress(text);
  return TcpAddress{std::string(host), std::string(port)};
}

TcpGate::TcpGate(asio::io_context& io, TcpGateOptions options, Admit admit)
    : io_(io), options_(std::move(options)), admit_(std::move(admit)), acceptor_(io), retry_(io) {}

absl::Status TcpGate::Open() {
  TIDE_ASSIGN_OR_RETURN(const TcpAddress address, ParseTcpAddress(options_.listen));
  if (options_.secret_file.empty()) {
    return absl::FailedPreconditionError(
        "--listen needs --secret-file: a coordinator serves only who knows its secret");
  }
  TIDE_ASSIGN_OR_RETURN(secret_, ReadSecret(options_.secret_file));
  asio::error_code error;
  asio::ip::tcp::resolver resolver(io_);
  const auto found =
      resolver.resolve(address.host, address.port, asio::ip::resolver_base::passive, error);
  if (error || found.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot find ", options_.listen, ": ", error.message()));
  }
  const asio::ip::tcp::endpoint endpoint = found.begin()->endpoint();
  if (!options_.tls.certificate.empty()) {
    TIDE_ASSIGN_OR_RETURN(tls_, TlsContext::Server(options_.tls));
  } else if (!endpoint.address().is_loopback()) {
    return absl::FailedPreconditionError(
        absl::StrCat(options_.listen,
                     " can be reached from other machines: give --tls-cert and "
                     "--tls-key, or listen on 127.0.0.1"));
  }
  acceptor_.open(endpoint.protocol(), error);
  if (!error) acceptor_.set_option(asio::ip::tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor_.bind(endpoint, error);
  if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
  if (error) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen at ", options_.listen, ": ", error.message()));
  }
  Accept();
  return absl::OkStatus();
}

void TcpGate::Close() {
  asio::error_code ignored;
  acceptor_.close(ignored);
  retry_.cancel(ignored);
}

std::string TcpGate::address() const {
  asio::error_code error;
  const auto endpoint = acceptor_.local_endpoint(error);
  return error ? "" : Text(endpoint);
}

void TcpGate::Accept() {
  acceptor_.async_accept([this](const asio::error_code& error, asio::ip::tcp::socket socket) {
    if (error == asio::error::operation_aborted || !acceptor_.is_open()) return;
    if (!error) {
      asio::error_code ignored;
      socket.set_option(asio::ip::tcp::no_delay(true), ignored);
      socket.set_option(asio::socket_base::keep_alive(true), ignored);
      const auto endpoint = socket.remote_endpoint(ignored);
      admit_(std::move(socket), Text(endpoint),
             SecureStream({.side = LinkSide::kCoordinator, .secret = secret_, .tls = tls_}));
      return Accept();
    }
    retry_.expires_after(kGateRetry);  // out of descriptors: some may be free soon
    retry_.async_wait([this](const asio::error_code& cancelled) {
      if (!cancelled) Accept();
    });
  });
}

}  // namespace tide::coordinator

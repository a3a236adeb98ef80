// The door of a coordinator: accepts TCP connections, a bounded number of which may be unproven.
#pragma once

#include <functional>
#include <string>

#ifndef ASIO_STANDALONE
#define ASIO_STANDALONE
#endif
#include <asio.hpp>

#include "absl/status/statusor.h"
#include "coordinator/frame_stream.h"

namespace tide::coordinator {

/// "tcp://HOST:PORT" taken apart; an IPv6 address stands in brackets.
struct TcpAddress {
  std::string host;
  std::string port;
};
/// Errors: InvalidArgument with the form that is meant.
absl::StatusOr<TcpAddress> ParseTcpAddress(absl::string_view text);

struct TcpGateOptions {
  std::string listen;  // tcp://HOST:PORT; empty: none. Port 0: one that is free
  std::string secret_file;
  TlsContext::Files tls;  // required beyond loopback
};

/// Not thread-safe.
class TcpGate {
 public:
  using Admit = std::function<void(asio::generic::stream_protocol::socket socket, std::string from,
                                   std::unique_ptr<FrameStream> stream)>;
  TcpGate(asio::io_context& io, TcpGateOptions options, Admit admit);

  /// Reads secret and certificates, listens. Errors: of the files; FailedPrecondition for an
  /// address beyond loopback without TLS; of bind.
  absl::Status Open();
  void Close();
  /// tcp://ADDRESS:PORT where it listens.
  std::string address() const;

 private:
  void Accept();

  asio::io_context& io_;
  const TcpGateOptions options_;
  const Admit admit_;
  std::string secret_;
  std::shared_ptr<const TlsContext> tls_;  // sessions keep it alive
  asio::ip::tcp::acceptor acceptor_;
  asio::steady_timer retry_;
};

}  // namespace tide::coordinator

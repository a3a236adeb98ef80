// The connection of a machine's daemon to its coordinator: connects, proves, and comes back.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/clock.h"
#include "coordinator/peer_connection.h"
#include "coordinator/tcp_gate.h"

namespace tide::coordinator {

struct NodeLinkOptions {
  std::string join;  // tcp://HOST:PORT; empty: none
  std::string secret_file;
  bool tls = false;         // always beyond loopback
  TlsContext::Files files;  // whose certificates are accepted; may be empty
};

/// What the link tells its owner, on the daemon's one thread.
class NodeLinkHandler {
 public:
  virtual ~NodeLinkHandler() = default;
  virtual void OnLinkOpen() = 0;
  virtual void OnLinkFrame(const wire::Frame& frame) = 0;
  virtual void OnLinkLost(const std::string& why) = 0;
};

/// Not thread-safe; the handler outlives it.
class NodeLinkClient final : public PeerHandler {
 public:
  NodeLinkClient(asio::io_context& io, NodeLinkOptions options, NodeLinkHandler& handler);

  /// Reads the secret and begins to connect. Errors: of the files and the address; a coordinator
  /// that is not there is none, it is tried again after 100 ms, doubling to 5 s.
  absl::Status Open();
  void Send(const wire::Frame& frame);
  /// Gives this connection up and begins anew.
  void Restart(const std::string& why);
  void Close();

  void OnOpen(PeerId peer) override;
  void OnFrame(PeerId peer, const wire::Frame& frame) override;
  void OnBroken(PeerId peer, const absl::Status& why) override;
  void OnGone(PeerId peer, const std::string& why) override;

 private:
  void Connect();
  void TryLater(const std::string& why);
  void Use(asio::ip::tcp::socket socket);

  asio::io_context& io_;
  const NodeLinkOptions options_;
  NodeLinkHandler& handler_;
  TcpAddress address_;
  std::string secret_, last_failure_;
  asio::ip::tcp::resolver resolver_;
  asio::steady_timer timer_;
  std::shared_ptr<PeerConnection> connection_;  // shared with its handlers in Asio
  std::chrono::milliseconds pause_;
  int64_t next_peer_ = 1;
  bool open_ = false, closed_ = false;
};

}  // namespace tide::coordinator

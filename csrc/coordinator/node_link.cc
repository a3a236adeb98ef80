// Connecting to a coordinator, again and again.
#include "coordinator/node_link.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"

namespace tide::coordinator {
namespace {

constexpr std::chrono::milliseconds kPauseFirst(100);
constexpr std::chrono::milliseconds kPauseLast(5000);
constexpr std::chrono::seconds kOpenPatience(5);  // for connecting and proving together

}  // namespace

NodeLinkClient::NodeLinkClient(asio::io_context& io, NodeLinkOptions options,
                               NodeLinkHandler& handler)
    : io_(io),
      options_(std::move(options)),
      handler_(handler),
      resolver_(io),
      timer_(io),
      pause_(kPauseFirst) {}

absl::Status NodeLinkClient::Open() {
  TIDE_ASSIGN_OR_RETURN(address_, ParseTcpAddress(options_.join));
  if (options_.secret_file.empty())
    return absl::FailedPreconditionError("--join needs --secret-file, the coordinator's own");
  TIDE_ASSIGN_OR_RETURN(secret_, ReadSecret(options_.secret_file));
  TIDE_RETURN_IF_ERROR(TlsContext::Client(options_.files).status());
  Connect();
  return absl::OkStatus();
}

void NodeLinkClient::Connect() {
  if (closed_) return;
  resolver_.async_resolve(
      address_.host, address_.port,
      [this](const asio::error_code& error, const asio::ip::tcp::resolver::results_type& found) {
        if (closed_) return;
        if (error) return TryLater(error.message());
        auto socket = std::make_shared<asio::ip::tcp::socket>(io_);  // until it is connected
        timer_.expires_after(kOpenPatience);
        timer_.async_wait([this, socket](const asio::error_code& cancelled) {
          if (cancelled || closed_) return;
          asio::error_code ignored;
          socket->close(ignored);
          if (connection_ && !open_) connection_->Cut("it did not prove the secret in time");
        });
        asio::async_connect(*socket, found,
                            [this, socket](const asio::error_code& failed, const auto&) {
                              if (closed_) return;
                              if (failed) return TryLater(failed.message());
                              Use(std::move(*socket));
                            });
      });
}

void NodeLinkClient::Use(asio::ip::tcp::socket socket) {
  asio::error_code ignored;
  socket.set_option(asio::ip::tcp::no_delay(true), ignored);
  const bool loopback = socket.remote_endpoint(ignored).address().is_loopback();
  std::shared_ptr<const TlsContext> tls;
  if (options_.tls || !loopback) {
    auto context = TlsContext::Client(options_.files);
    if (!context.ok()) return TryLater(std::string(context.status().message()));
    tls = *std::move(context);
  }
  connection_ = std::make_shared<PeerConnection>(
      std::move(socket), PeerConnection::Identity{PeerId(next_peer_++), 0, options_.join},
      PeerLimits{.frames_per_s = 50'000, .frames_burst = 100'000},
      SecureStream({.side = LinkSide::kNode, .secret = secret_, .tls = std::move(tls)}), *this);
  connection_->Start();
}

void NodeLinkClient::TryLater(const std::string& why) {
  if (why != last_failure_) {
    Log(LogLevel::kWarning, absl::StrCat("event=coordinator_unreachable address=", options_.join,
                                         " reason=\"", why, "\""));
    last_failure_ = why;
  }
  timer_.expires_after(pause_);
  pause_ = std::min(pause_ * 2, kPauseLast);
  timer_.async_wait([this](const asio::error_code& cancelled) {
    if (!cancelled) Connect();
  });
}

void NodeLinkClient::Send(const wire::Frame& frame) {
  if (connection_ && open_) connection_->Send(frame);
}

void NodeLinkClient::Restart(const std::string& why) {
  if (connection_) connection_->Cut(why);
}

void NodeLinkClient::Close() {
  closed_ = true;
  asio::error_code ignored;
  timer_.cancel(ignored);
  resolver_.cancel();
  if (connection_) connection_->Cut("the daemon ends");
}

void NodeLinkClient::OnOpen(PeerId) {
  open_ = true;
  asio::error_code ignored;
  timer_.cancel(ignored);
  pause_ = kPauseFirst;
  last_failure_.clear();
  handler_.OnLinkOpen();
}

void NodeLinkClient::OnFrame(PeerId, const wire::Frame& frame) { handler_.OnLinkFrame(frame); }

void NodeLinkClient::OnBroken(PeerId, const absl::Status& why) {
  if (connection_) connection_->Cut(std::string(why.message()));
}

void NodeLinkClient::OnGone(PeerId, const std::string& why) {
  connection_.reset();
  const bool was_open = std::exchange(open_, false);
  if (was_open && !closed_) handler_.OnLinkLost(why);
  if (!closed_) TryLater(why);
}

}  // namespace tide::coordinator

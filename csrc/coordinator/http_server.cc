// cpp-httplib with the checks that a page on a developer's machine needs.
#include "coordinator/http_server.h"

#include <httplib.h>

#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/link_secret.h"

namespace tide::coordinator {
namespace {

constexpr size_t kThreads = 4;
constexpr size_t kBodyBytesMax = 4096;
constexpr time_t kPatienceSeconds = 5;

bool IsLoopback(absl::string_view host) {
  return host == "127.0.0.1" || host == "localhost" || host == "::1" || host == "[::1]";
}

absl::string_view HostOf(absl::string_view host_and_port) {
  const size_t colon = host_and_port.rfind(':');
  const bool bracketed = !host_and_port.empty() && host_and_port.back() == ']';
  return colon == host_and_port.npos || bracketed ? host_and_port : host_and_port.substr(0, colon);
}

}  // namespace

struct HttpServer::Library {
  httplib::Server server;
  std::thread thread;
  std::string token;
  bool loopback = true;
  Ask ask;

  /// A page elsewhere must not read this one by a name that it has pointed here, and beyond this
  /// machine only who has the token reads anything.
  bool Allowed(const httplib::Request& request) const {
    if (token.empty()) return IsLoopback(HostOf(request.get_header_value("Host")));
    const std::string given = request.has_param("token")
                                  ? request.get_param_value("token")
                                  : request.get_header_value("Authorization");
    const absl::string_view bare =
        absl::StartsWith(given, "Bearer ") ? absl::string_view(given).substr(7) : given;
    return SameSecretly(bare, token);
  }

  void Answer(const httplib::Request& request, httplib::Response& response) const {
    response.set_header("Cache-Control", "no-store");
    response.set_header("X-Content-Type-Options", "nosniff");
    response.set_header("Content-Security-Policy",
                        "default-src 'none'; style-src 'unsafe-inline'; script-src "
                        "'unsafe-inline'; connect-src 'self'; img-src data:");
    if (!Allowed(request)) {
      response.status = 403;
      response.set_content("not permitted: open it as 127.0.0.1, or give the token\n",
                           "text/plain");
      return;
    }
    HttpQuestion question{.path = request.path};
    if (request.has_param("since") &&
        !absl::SimpleAtoi(request.get_param_value("since"), &question.since)) {
      response.status = 400;
      response.set_content("since is a number\n", "text/plain");
      return;
    }
    const auto body = ask(question);
    response.status = body ? 200 : 404;
    body ? response.set_content(body->text, body->type)
         : response.set_content(
               "there are /, /metrics, /api/state, /api/cluster, /api/events, "
               "/api/history\n",
               "text/plain");
  }
};

HttpServer::HttpServer() = default;
HttpServer::~HttpServer() { Stop(); }

absl::Status HttpServer::Start(const Options& options, Ask ask) {
  const size_t colon = options.listen.rfind(':');
  int port = -1;
  if (colon == options.listen.npos || !absl::SimpleAtoi(options.listen.substr(colon + 1), &port) ||
      port < 0 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", options.listen, "\" is no address; for instance 127.0.0.1:7071"));
  }
  const std::string host = options.listen.substr(0, colon);
  library_ = std::make_unique<Library>();
  Library& library = *library_;
  library.loopback = IsLoopback(host);
  if (!options.token_file.empty()) {
    TIDE_ASSIGN_OR_RETURN(library.token, ReadSecret(options.token_file));
  } else if (!library.loopback) {
    return absl::FailedPreconditionError(
        absl::StrCat(options.listen,
                     " can be reached from other machines: give --http-token-file, "
                     "or listen on 127.0.0.1"));
  }
  library.ask = std::move(ask);
  httplib::Server& server = library.server;
  server.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
  server.set_payload_max_length(kBodyBytesMax);
  server.set_read_timeout(kPatienceSeconds);
  server.set_write_timeout(kPatienceSeconds);
  server.set_keep_alive_timeout(kPatienceSeconds);
  // Before the body is read, which a request without its length would keep open.
  server.set_pre_routing_handler([](const httplib::Request& request, httplib::Response& response) {
    if (request.method == "GET" || request.method == "HEAD")
      return httplib::Server::HandlerResponse::Unhandled;
    response.status = 405;
    response.set_header("Allow", "GET, HEAD");
    response.set_header("Connection", "close");
    response.set_content("this page is read only: orders are given by tide\n", "text/plain");
    return httplib::Server::HandlerResponse::Handled;
  });
  server.Get(".*", [&library](const httplib::Request& request, httplib::Response& response) {
    library.Answer(request, response);
  });
  const int bound = port == 0 ? server.bind_to_any_port(host.c_str())
                              : (server.bind_to_port(host.c_str(), port) ? port : -1);
  if (bound < 0) return absl::UnavailableError(absl::StrCat("cannot listen at ", options.listen));
  address_ = absl::StrCat(host, ":", bound);
  library.thread = std::thread([&server] { server.listen_after_bind(); });
  return absl::OkStatus();
}

void HttpServer::Stop() {
  if (!library_ || !library_->thread.joinable()) return;
  library_->server.stop();
  library_->thread.join();
}

}  // namespace tide::coordinator

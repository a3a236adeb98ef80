// The HTTP side of the daemon: cpp-httplib on threads of its own, answers from the daemon's thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "coordinator/status_api.h"

namespace tide::coordinator {

/// Serves GET only. A few threads, bounded bodies, bounded waits.
class HttpServer {
 public:
  /// Called on threads of this server; must be safe to call until the server is destroyed.
  using Ask = std::function<std::optional<HttpBody>(const HttpQuestion& question)>;
  struct Options {
    std::string listen;      // HOST:PORT; port 0: any
    std::string token_file;  // required beyond loopback
  };
  HttpServer();
  ~HttpServer();

  /// Errors: InvalidArgument for an address; FailedPrecondition beyond loopback without a token;
  /// Unavailable when it cannot bind.
  absl::Status Start(const Options& options, Ask ask);
  /// HOST:PORT where it listens.
  const std::string& address() const { return address_; }
  /// Ends all requests; returns when no thread is left.
  void Stop();

 private:
  struct Library;
  std::unique_ptr<Library> library_;
  std::string address_;
};

}  // namespace tide::coordinator

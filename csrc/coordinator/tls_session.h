// TLS over bytes that somebody else reads and writes: no socket in here.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tide::coordinator {

/// Certificates, read once. Shared by the sessions that are made of it, which may outlive a reload.
class TlsContext {
 public:
  struct Files {
    std::string certificate, key;  // of a coordinator
    std::string authority;         // of a node: who must have signed the certificate; may be empty
  };
  /// TLS 1.3 only. Errors: InvalidArgument naming the file that cannot be used.
  static absl::StatusOr<std::shared_ptr<const TlsContext>> Server(const Files& files);
  static absl::StatusOr<std::shared_ptr<const TlsContext>> Client(const Files& files);
  ~TlsContext();

 private:
  friend class TlsSession;
  struct Library;
  explicit TlsContext(std::unique_ptr<Library> library);
  static absl::StatusOr<std::shared_ptr<const TlsContext>> Make(const Files& files, bool server);
  const std::unique_ptr<Library> library_;
};

/// One connection. Not thread-safe.
class TlsSession {
 public:
  explicit TlsSession(std::shared_ptr<const TlsContext> context);
  ~TlsSession();

  /// Takes bytes from the socket, appends what they say to `plain` and what must be answered to
  /// `out`. Errors: PermissionDenied when the other side's certificate or bytes are not acceptable.
  absl::Status Feed(absl::string_view bytes, std::string& plain, std::string& out);
  /// Encrypts. Errors: FailedPrecondition before the handshake has ended.
  absl::Status Write(absl::string_view plain, std::string& out);
  /// Begins or continues the handshake.
  absl::Status Shake(std::string& out);
  bool established() const;
  /// Bytes that only the two ends of this session know (RFC 9266 uses the same means).
  std::string Binding() const;

 private:
  struct Library;
  absl::Status Failed(int result, absl::string_view what) const;
  void Drain(std::string& out);
  const std::shared_ptr<const TlsContext> context_;  // the sessions of a context keep it alive
  const std::unique_ptr<Library> library_;
};

}  // namespace tide::coordinator

// How the members of a lane hand each other descriptors of device memory: a socket a process in the
// runtime directory, asked by whoever needs a chunk that this process has.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/bytes.h"
#include "base/ids.h"
#include "base/unique_fd.h"

namespace tide::lane {

struct ChunkRequest {
  std::string table;  // of the device: its file's name
  LaneId lane;
  Bytes size;
  int index = 0;
};

/// Answers on a thread of its own until it is destroyed. The socket is RUNTIME_DIR/chunks-PID, mode
/// 0600; processes of other users are refused.
class ChunkServer {
 public:
  /// Called on the server's thread, one request at a time.
  using Provide = std::function<absl::StatusOr<UniqueFd>(const ChunkRequest&)>;
  /// Also removes sockets of processes that have ended. Errors: of the runtime directory, the
  /// socket.
  static absl::StatusOr<std::unique_ptr<ChunkServer>> Start(const std::string& runtime_dir,
                                                            Provide provide);
  ChunkServer(const ChunkServer&) = delete;
  ChunkServer& operator=(const ChunkServer&) = delete;
  ~ChunkServer();  // stops the thread and removes the socket
  /// In a forked child, which has no such thread and must not keep the socket open; leak the object
  /// after it.
  void AbandonAfterFork();

 private:
  struct Impl;
  explicit ChunkServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Asks process `pid`. Errors: NotFound (it has no such chunk or no socket any more), Unavailable
/// (it does not give it now), DeadlineExceeded after `timeout`, PermissionDenied (another user's).
absl::StatusOr<UniqueFd> RequestChunk(const std::string& runtime_dir, pid_t pid,
                                      const ChunkRequest& request, absl::Duration timeout);

}  // namespace tide::lane

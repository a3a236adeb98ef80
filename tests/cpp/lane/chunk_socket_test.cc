// Descriptors between processes that have nothing in common but the runtime directory.
#include "lane/chunk_socket.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tide::lane {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(30);
const ChunkRequest kRequest{"device-cuda_0", LaneId(1), MiB(20), 3};

class ChunkSocketTest : public ::testing::Test {
 protected:
  ChunkSocketTest() {
    // Longer than a socket's address: folders of tests and users are.
    std::string name =
        absl::StrCat((std::filesystem::current_path() / std::string(90, 'f')).string(), "XXXXXX");
    folder_ = mkdtemp(name.data());
  }
  ~ChunkSocketTest() override { std::filesystem::remove_all(folder_); }

  std::string SocketOf(pid_t pid) const { return absl::StrCat(folder_, "/chunks-", pid); }

  /// Gives a file that says what was asked for.
  static absl::StatusOr<UniqueFd> Give(const ChunkRequest& request) {
    UniqueFd fd(memfd_create("chunk", MFD_CLOEXEC));
    const std::string text = absl::StrCat(request.table, " ", request.lane.value(), " ",
                                          request.size.value(), " ", request.index);
    EXPECT_EQ(pwrite(fd.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
    return fd;
  }
  static std::string TextOf(const UniqueFd& fd) {
    char text[128] = {};
    EXPECT_GT(pread(fd.get(), text, sizeof text - 1, 0), 0);
    return text;
  }

  std::string folder_;
};

TEST_F(ChunkSocketTest, AnotherProcessGetsWhatItAsksFor) {
  auto server = ChunkServer::Start(folder_, Give);
  ASSERT_TRUE(server.ok()) << server.status();
  struct stat info;
  ASSERT_EQ(stat(SocketOf(getpid()).c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  const pid_t own = getpid();
  const pid_t child = fork();
  if (child == 0) {
    const auto fd = RequestChunk(folder_, own, kRequest, kPatience);
    _exit(fd.ok() && TextOf(*fd) == "device-cuda_0 1 20971520 3" ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  server->reset();
  EXPECT_NE(stat(SocketOf(own).c_str(), &info), 0) << "the socket goes with the server";
}

TEST_F(ChunkSocketTest, ARefusalSaysWhetherItIsForNow) {
  absl::Status answer = absl::NotFoundError("none");
  auto server = ChunkServer::Start(folder_, [&](const ChunkRequest&) { return answer; });
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_EQ(RequestChunk(folder_, getpid(), kRequest, kPatience).status().code(),
            absl::StatusCode::kNotFound);
  answer = absl::UnavailableError("an iteration writes to it");
  EXPECT_EQ(RequestChunk(folder_, getpid(), kRequest, kPatience).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(ChunkSocketTest, WhoHasEndedHasNoChunks) {
  EXPECT_EQ(RequestChunk(folder_, getpid(), kRequest, kPatience).status().code(),
            absl::StatusCode::kNotFound);
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    auto server = ChunkServer::Start(folder_, Give);
    if (!server.ok() || write(ready[1], "r", 1) != 1) _exit(1);
    for (;;) pause();
  }
  char word = 0;
  ASSERT_EQ(read(ready[0], &word, 1), 1);
  EXPECT_TRUE(RequestChunk(folder_, child, kRequest, kPatience).ok());
  kill(child, SIGKILL);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  EXPECT_TRUE(std::filesystem::exists(SocketOf(child))) << "killed: nobody has removed it";
  EXPECT_EQ(RequestChunk(folder_, child, kRequest, kPatience).status().code(),
            absl::StatusCode::kNotFound);
  auto next = ChunkServer::Start(folder_, Give);
  EXPECT_FALSE(std::filesystem::exists(SocketOf(child))) << "the next one to start removes it";
  close(ready[0]);
  close(ready[1]);
}

TEST_F(ChunkSocketTest, WhoNeverAnswersIsWaitedForNoLongerThanSaid) {
  // Listens and never accepts: as a stopped process.
  const int listening = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  const int folder = open(folder_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  absl::StrCat("/proc/self/fd/", folder, "/chunks-", getpid())
      .copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(bind(listening, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(listening, 1), 0);
  EXPECT_EQ(RequestChunk(folder_, getpid(), kRequest, absl::Milliseconds(20)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  close(folder);
  close(listening);
}

TEST_F(ChunkSocketTest, AServerOutlivesWhoSendsNonsenseOrNothing) {
  auto server = ChunkServer::Start(folder_, Give);
  ASSERT_TRUE(server.ok()) << server.status();
  const int folder = open(folder_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  absl::StrCat("/proc/self/fd/", folder, "/chunks-", getpid())
      .copy(address.sun_path, sizeof address.sun_path - 1);
  for (const char* nonsense : {"", "x",
                               "a text that is no request at all, but as long as one, at "
                               "least nearly, or even longer than that"}) {
    const int client = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    ASSERT_EQ(connect(client, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    if (*nonsense != 0) send(client, nonsense, strlen(nonsense), MSG_NOSIGNAL);
    close(client);
  }
  const auto fd = RequestChunk(folder_, getpid(), kRequest, kPatience);
  EXPECT_TRUE(fd.ok()) << fd.status();
  close(folder);
}

TEST_F(ChunkSocketTest, AForkedChildDoesNotKeepTheSocket) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t parent = fork();
  if (parent == 0) {
    auto server = ChunkServer::Start(folder_, Give);
    if (!server.ok()) _exit(1);
    if (fork() == 0) {
      (*server)->AbandonAfterFork();
      const pid_t own = getpid();
      if (write(ready[1], &own, sizeof own) != sizeof own) _exit(1);
    }
    for (;;) pause();
  }
  pid_t worker = 0;
  ASSERT_EQ(read(ready[0], &worker, sizeof worker), static_cast<ssize_t>(sizeof worker));
  kill(parent, SIGKILL);
  ASSERT_EQ(waitpid(parent, nullptr, 0), parent);
  EXPECT_EQ(RequestChunk(folder_, parent, kRequest, kPatience).status().code(),
            absl::StatusCode::kNotFound)
      << "nobody would have answered";
  kill(worker, SIGKILL);
  close(ready[0]);
  close(ready[1]);
}

}  // namespace
}  // namespace tide::lane

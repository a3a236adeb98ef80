// The phantom NCCL: communicators of one rank, whose memory can leave and come back. Collectives do
// nothing, which is what they do in a group of one that works in place.
#include <atomic>
#include <cstdint>
#include <cstring>

#include "libraries.h"

namespace {

constexpr int kInvalidArgument = 4, kInvalidUsage = 5;
constexpr uint64_t kBytes = 64 << 20;  // of a communicator, while it is here
constexpr unsigned kMagic = 0x7469'6465;

struct Communicator {
  unsigned magic = kMagic;
  bool suspended = false;
};
std::atomic<int> suspended_count{0};

bool Known(const Communicator* communicator) {
  return communicator != nullptr && communicator->magic == kMagic;
}

}  // namespace

LIBRARY(int, ncclGetVersion, (int* version)) {
  *version = 22907;
  return 0;
}
LIBRARY(const char*, ncclGetErrorString, (int)) { return "phantom NCCL error"; }
LIBRARY(const char*, ncclGetLastError, (Communicator*)) { return ""; }
LIBRARY(int, ncclGetUniqueId, (char* id_128)) {
  std::memset(id_128, 7, 128);
  return 0;
}

struct UniqueId {
  char internal[128];
};
LIBRARY(int, ncclCommInitRankConfig,
        (Communicator * *out, int ranks, UniqueId, int, void* config)) {
  (void)config;
  if (ranks != 1) return kInvalidUsage;  // no ranks beside this one are to be reached
  *out = new Communicator;
  return 0;
}
LIBRARY(int, ncclCommGetAsyncError, (Communicator * communicator, int* error)) {
  *error = 0;
  return Known(communicator) ? 0 : kInvalidArgument;
}
LIBRARY(int, ncclCommCount, (Communicator*, int* count)) {
  *count = 1;
  return 0;
}
LIBRARY(int, ncclCommUserRank, (Communicator*, int* rank)) {
  *rank = 0;
  return 0;
}
LIBRARY(int, ncclCommSuspend, (Communicator * communicator, int flags)) {
  if (!Known(communicator) || flags != 1) return kInvalidArgument;
  if (communicator->suspended) return kInvalidUsage;
  communicator->suspended = true;
  ++suspended_count;
  return 0;
}
LIBRARY(int, ncclCommResume, (Communicator * communicator)) {
  if (!Known(communicator)) return kInvalidArgument;
  if (!communicator->suspended) return kInvalidUsage;
  communicator->suspended = false;
  --suspended_count;
  return 0;
}
LIBRARY(int, ncclCommMemStats, (Communicator * communicator, int which, uint64_t* value)) {
  if (!Known(communicator)) return kInvalidArgument;
  const uint64_t away = communicator->suspended ? 1 : 0;
  const uint64_t figures[] = {kBytes, away, 0, away != 0 ? 0 : kBytes};  // as in nccl.h
  *value = which >= 0 && which < 4 ? figures[which] : 0;
  return 0;
}
LIBRARY(int, ncclAllReduce,
        (const void*, void*, size_t, int, int, Communicator* communicator, void*)) {
  // A collective on a communicator whose memory is away is an error of the program.
  return Known(communicator) && !communicator->suspended ? 0 : kInvalidUsage;
}
/// For tests: how many communicators are away.
PHANTOM_EXPORT int phantomNcclSuspended() { return suspended_count; }

// The phantom driver: checkpoints of whole processes, which another process makes
// (cuCheckpointProcess*), with the states of cuda.h 13.
#include <unistd.h>

#include <cstdint>

#include "phantom/driver.h"
#include "phantom/settings.h"

using phantom::GetMemory;
using phantom::ProcessState;
namespace cuda = phantom::cuda;

namespace {

thread_local int calls_of_thread = 0;

struct LockArguments {  // CUcheckpointLockArgs
  unsigned timeout_ms;
  unsigned reserved_0;
  uint64_t reserved_1[7];
};

/// What is wrong with a call about `pid`, or success.
cuda::Result CheckTarget(int pid) {
  if (!phantom::GetSettings().checkpoints) return cuda::kNotSupported;
  if (GetMemory().device_count() == 0) return cuda::kNotInitialized;
  if (pid == getpid() || !GetMemory().ledger(0).IsAttached(pid)) return cuda::kInvalidValue;
  return cuda::kSuccess;
}
/// The state of a process is in the ledger of the first device.
cuda::Result Change(int pid, ProcessState from, ProcessState to) {
  const bool changed = GetMemory().ledger(0).ChangeState(pid, from, to);
  return changed ? cuda::kSuccess : phantom::kIllegalState;
}

}  // namespace

phantom::InCall::InCall() {
  ++calls_of_thread;
  // Before cuInit, and in a forked child, there is nothing that could be locked.
  if (calls_of_thread > 1 || GetMemory().device_count() == 0 || !GetMemory().IsOwn()) return;
  GetMemory().ledger(0).BeginCall();
  counted_ = true;
}

phantom::InCall::~InCall() {
  --calls_of_thread;
  if (counted_ && GetMemory().IsOwn()) GetMemory().ledger(0).EndCall();
}

DRIVER cuCheckpointProcessGetState(int pid, int* state) {
  ENTER_LOCKED("cuCheckpointProcessGetState");
  if (auto error = CheckTarget(pid)) return error;
  *state = static_cast<int>(GetMemory().ledger(0).State(pid));
  return cuda::kSuccess;
}

DRIVER cuCheckpointProcessLock(int pid, const LockArguments* arguments) {
  ENTER_LOCKED("cuCheckpointProcessLock");
  if (auto error = CheckTarget(pid)) return error;
  if (auto error = Change(pid, ProcessState::kRunning, ProcessState::kLocked)) return error;
  const unsigned timeout_ms = arguments != nullptr ? arguments->timeout_ms : 0;
  if (GetMemory().ledger(0).AwaitCalls(pid, timeout_ms)) return cuda::kSuccess;
  Change(pid, ProcessState::kLocked, ProcessState::kRunning);
  return cuda::kNotReady;
}

DRIVER cuCheckpointProcessCheckpoint(int pid, const void*) {
  ENTER_LOCKED("cuCheckpointProcessCheckpoint");
  if (auto error = CheckTarget(pid)) return error;
  if (GetMemory().ledger(0).State(pid) != ProcessState::kLocked) return phantom::kIllegalState;
  for (int i = 0; i < GetMemory().device_count(); ++i) {
    if (GetMemory().ledger(i).SendAway(pid)) continue;
    for (int k = 0; k < i; ++k) GetMemory().ledger(k).BringBack(pid);
    return cuda::kNotSupported;  // memory that another process shares
  }
  return Change(pid, ProcessState::kLocked, ProcessState::kCheckpointed);
}

DRIVER cuCheckpointProcessRestore(int pid, const void*) {
  ENTER_LOCKED("cuCheckpointProcessRestore");
  if (auto error = CheckTarget(pid)) return error;
  if (GetMemory().ledger(0).State(pid) != ProcessState::kCheckpointed)
    return phantom::kIllegalState;
  for (int i = 0; i < GetMemory().device_count(); ++i) {
    if (GetMemory().ledger(i).BringBack(pid)) continue;
    for (int k = 0; k < i; ++k) GetMemory().ledger(k).SendAway(pid);
    return cuda::kOutOfMemory;
  }
  return Change(pid, ProcessState::kCheckpointed, ProcessState::kLocked);
}

DRIVER cuCheckpointProcessUnlock(int pid, const void*) {
  ENTER_LOCKED("cuCheckpointProcessUnlock");
  if (auto error = CheckTarget(pid)) return error;
  return Change(pid, ProcessState::kLocked, ProcessState::kRunning);
}

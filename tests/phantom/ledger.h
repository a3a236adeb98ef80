// The capacity of one phantom device, shared by all processes of one name through a small file.
#pragma once

#include <pthread.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace phantom {

/// A place in the ledger: who created the memory does not matter, who still holds it does.
struct LedgerEntry {
  int index = -1;
  uint64_t id = 0;
};

struct LedgerFigures {
  uint64_t capacity, used, peak, refused, held_here;
};

/// CUprocessState.
enum class ProcessState : uint32_t { kRunning = 0, kLocked = 1, kCheckpointed = 2, kFailed = 3 };

/// Memory is charged until the last holding process lets go or dies. Thread-safe.
class Ledger {
 public:
  /// Attaches this process to device `index`; null when the file cannot be had.
  static std::unique_ptr<Ledger> Attach(int index);
  /// Gives everything back; at exit.
  void Leave();

  /// The context's own share, once a process. False when it does not fit.
  bool ChargeContext();
  /// False when it does not fit, after the dead have been forgotten.
  bool Charge(size_t size, LedgerEntry* entry);
  /// This process now holds memory that another one created. False when nobody holds it any more.
  bool Share(LedgerEntry entry);
  void Release(LedgerEntry entry);

  LedgerFigures Figures();
  /// Pids that hold something, with their bytes; for the phantom NVML. Returns how many were
  /// written.
  int Holders(int* pids, uint64_t* bytes, int count_max);

  // checkpoints of whole processes
  /// False when no process of that id is attached.
  bool IsAttached(int pid);
  /// What all processes see of it; kept in the ledger of the first device.
  ProcessState State(int pid);
  /// False when it is in another state than `from`.
  bool ChangeState(int pid, ProcessState from, ProcessState to);
  /// Waits until no driver call of the process is under way; false when that took too long. 0: no
  /// limit.
  bool AwaitCalls(int pid, unsigned timeout_ms);
  /// Around a driver call of this process; it begins when the process is running.
  void BeginCall();
  void EndCall();
  /// Takes all that the process has off the device. False when another holds a part of it.
  bool SendAway(int pid);
  /// Puts it back. False when it does not fit.
  bool BringBack(int pid);

 private:
  struct Shared;
  class Lock;
  explicit Ledger(Shared* shared) : shared_(shared) {}
  void Reap();
  void Drop(int entry, int process);
  int Find(int pid);
  bool IsOnlyOf(int entry, int process) const;

  Shared* const shared_;
  int slot_ = -1;
};

}  // namespace phantom

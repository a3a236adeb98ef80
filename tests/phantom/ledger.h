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

/// Memory is charged until the last holding process lets go or dies. Thread-safe.
class Ledger {
 public:
  /// Attaches this process to device `index`; null when the file cannot be had or the context's
  /// own share does not fit.
  static std::unique_ptr<Ledger> Attach(int index);
  /// Gives everything back; at exit.
  void Leave();

  /// False when it does not fit, after the dead have been forgotten.
  bool Charge(size_t size, LedgerEntry* entry);
  /// This process now holds memory that another one created. False when nobody holds it any more.
  bool Share(LedgerEntry entry);
  void Release(LedgerEntry entry);

  LedgerFigures Figures();
  /// Pids that hold something, with their bytes; for the phantom NVML. Returns how many were
  /// written.
  int Holders(int* pids, uint64_t* bytes, int count_max);

 private:
  struct Shared;
  class Lock;
  explicit Ledger(Shared* shared) : shared_(shared) {}
  void Reap();
  void Drop(int entry, int process);

  Shared* const shared_;
  int slot_ = -1;
};

}  // namespace phantom

// What a C++ test asks of the phantom driver it has opened.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "pages/cuda_driver.h"

namespace phantom {

/// Sets the knobs that are read at the first call; before the driver is opened. The phantom's
/// ledgers go with this process.
inline void Configure(const std::string& name, int megabytes, int devices = 1) {
  static auto& names = *new std::vector<std::string>;
  static const pid_t owner = getpid();
  if (names.empty()) {
    std::atexit([] {
      std::error_code ignored;
      if (getpid() != owner) return;  // a forked child
      for (const auto& file : std::filesystem::directory_iterator("/dev/shm", ignored)) {
        const std::string found = file.path().filename().string();
        for (const std::string& own : names) {
          if (found.rfind("tide-phantom-" + own + "-", 0) == 0)
            std::filesystem::remove(file.path(), ignored);
        }
      }
    });
  }
  names.push_back(name);
  setenv("TIDE_PHANTOM_NAME", name.c_str(), 1);
  setenv("TIDE_PHANTOM_MB", std::to_string(megabytes).c_str(), 1);
  setenv("TIDE_PHANTOM_DEVICES", std::to_string(devices).c_str(), 1);
  setenv("TIDE_PHANTOM_QUIET", "1", 1);
}

struct Ledger {
  uint64_t capacity, used, peak, refused, held_here;
};
struct Figures {
  uint64_t launches, copies, copied_bytes, handles, mappings, reservations;
};

class Control {
 public:
  explicit Control(const tide::pages::cuda::Driver& driver) : driver_(driver) {}

  void ArmFault(const char* call, int skip, int times, int error) const {
    Call<void(const char*, int, int, int)>("phantomArmFault")(call, skip, times, error);
  }
  void HoldCall(const char* call) const { Call<void(const char*)>("phantomHoldCall")(call); }
  void LetThrough(int calls) const { Call<void(int)>("phantomLetThrough")(calls); }
  void DisarmFaults() const { Call<void()>("phantomDisarmFaults")(); }
  uint64_t CallCount(const char* call) const {
    return Call<uint64_t(const char*)>("phantomCallCount")(call);
  }
  void SetDelay(int delay) const { Call<void(int)>("phantomSetDelay")(delay); }
  void SetHostNuma(bool on) const { Call<void(int)>("phantomSetHostNuma")(on ? 1 : 0); }
  void Forgive() const { Call<void()>("phantomForgive")(); }
  int Touch(uint64_t at, size_t size, void* stream) const {
    return Call<int(unsigned long long, size_t, void*, double)>("phantomTouch")(at, size, stream,
                                                                                0);
  }
  /// A stream that waits for no other.
  void* Stream() const {
    constexpr unsigned kNonBlocking = 1;
    void* stream = nullptr;
    Call<int(void**, unsigned)>("cuStreamCreate")(&stream, kNonBlocking);
    return stream;
  }
  int Synchronize(void* stream) const { return Call<int(void*)>("cuStreamSynchronize")(stream); }
  /// How much that was put on streams has not happened yet.
  size_t pending() const { return Call<size_t()>("phantomPending")(); }
  Ledger ledger(int device = 0) const {
    Ledger ledger{};
    Call<void(int, uint64_t*)>("phantomLedger")(device, &ledger.capacity);
    return ledger;
  }
  Figures figures() const {
    Figures figures{};
    Call<void(uint64_t*)>("phantomFigures")(&figures.launches);
    return figures;
  }

 private:
  template <typename Function>
  Function* Call(const char* name) const {
    return reinterpret_cast<Function*>(driver_.Symbol(name));
  }
  const tide::pages::cuda::Driver& driver_;
};

}  // namespace phantom

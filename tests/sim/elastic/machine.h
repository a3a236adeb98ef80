// A machine with simulated processes: one runs at a time, and a seed decides which, how long each
// is held up, and where one is killed.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/random.h"
#include "sim/elastic/fiber.h"

namespace tide::elastic::simulated {

// What edge.h is made of. Outside of a machine nothing is interrupted.

/// Comes before each effect. Returns false when the process is dead and only its destructors run:
/// nothing that it does may have an effect any more.
bool Step();
bool FailsSpuriously();
void Sleep(absl::Duration timeout);
void WakeSleepers();
int32_t OwnPid();
bool Runs(int32_t pid);
bool IsStopped(int32_t pid);
void Kill(int32_t pid);
Clock& MachineClock();

/// How much goes wrong, drawn from the seed by whoever makes the machine.
struct Faults {
  int kills = 0;
  int stops = 0;      // by a signal: seen by others, for up to 2 s
  int delays = 0;     // unseen, for up to 100 ms
  int within = 3000;  // steps in which all of that happens
  int switches = 3;   // one step in so many is followed by another process's
};

class Machine {
 public:
  Machine(uint64_t seed, Faults faults);
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  ~Machine();

  /// Starts a process; from outside or from inside of one. Returns its pid. `ended` is told whether
  /// it was killed, once it can do nothing any more. An immortal one is spared by the faults.
  int32_t Start(std::function<void()> body, std::function<void(bool killed)> ended,
                bool immortal = false);
  /// Until all processes have ended. False: they were still at it after `steps_max` steps.
  bool Run(int64_t steps_max);
  /// Holds the calling process up for so long.
  void Delay(absl::Duration duration);

  /// Called whenever a process has just been killed.
  void OnKill(std::function<void()> told) { on_kill_ = std::move(told); }

  Random& random() { return random_; }
  int64_t steps() const { return steps_; }

 private:
  friend bool Step();
  friend bool FailsSpuriously();
  friend void Sleep(absl::Duration timeout);
  friend void WakeSleepers();
  friend int32_t OwnPid();
  friend bool Runs(int32_t pid);
  friend bool IsStopped(int32_t pid);
  friend void Kill(int32_t pid);

  struct Process {
    int32_t pid = 0;
    std::function<void()> body;
    std::function<void(bool)> ended;
    Fiber fiber;
    void* stack = nullptr;
    int64_t until_ns = 0;  // it runs no sooner
    bool asleep = false;   // until_ns ends early when somebody wakes it
    bool stopped = false;
    bool immortal = false;
    bool killed = false;
    bool unwinding = false;
    bool over = false;
  };
  struct Killed {};
  struct Fault {
    int64_t at_step;
    enum { kKill, kStop, kDelay } kind;
  };

  static void Enter(uint32_t high, uint32_t low);
  Process* Find(int32_t pid);
  Process* Choose();
  void KillNow(Process& process);
  void Yield();
  void CheckKilled();
  void Inject();
  void* TakeStack();

  Random random_;
  const int switches_;
  SimulatedClock clock_;
  std::vector<std::unique_ptr<Process>> processes_;
  std::vector<Fault> faults_;  // the next one last
  std::function<void()> on_kill_;
  std::vector<void*> stacks_;  // of processes that are over
  Fiber scheduler_;
  Process* current_ = nullptr;
  int64_t steps_ = 0;

  friend Clock& MachineClock();
};

}  // namespace tide::elastic::simulated

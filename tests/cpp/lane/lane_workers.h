// Worker processes of a lane for tests: they take turns and check that they are alone.
#pragma once

#include <signal.h>

#include <memory>
#include <vector>

#include "base/random.h"
#include "cpp/shm/child_process.h"
#include "lane/scratch.h"
#include "lane/turn.h"
#include "shm/device_file.h"

namespace tide::lane {

/// What workers and the test tell each other.
struct LaneBoard {
  std::atomic<uint32_t> news{0};
  std::atomic<int> inside{0};  // worker number + 1 of who runs an iteration
  std::atomic<int> violations{0};
  std::atomic<int> joined{0};
  std::atomic<bool> go{false};
  std::atomic<bool> stop{false};
  std::atomic<bool> doomed[16];  // about to be killed: may leave `inside` behind
  std::atomic<int> iterations[16];
  std::atomic<int> pids[16];
  std::atomic<int> slots[16];
};

/// Enters the iteration of worker `number`; counts a violation when another live one is inside.
inline void Enter(LaneBoard& board, int number) {
  const int before = board.inside.exchange(number + 1);
  if (before != 0 && !board.doomed[before - 1].load()) board.violations.fetch_add(1);
}

inline void Exit(LaneBoard& board, int number) {
  int expected = number + 1;
  if (!board.inside.compare_exchange_strong(expected, 0)) board.violations.fetch_add(1);
}

struct WorkerPlan {
  int number = 0;
  int iterations = 1 << 30;
  double weight = 1.0;
  sched::Priority priority = sched::Priority::kNormal;
  bool continuing = true;
  absl::Duration tick = kTick;
};

/// The body of a worker: waits for `go`, then runs iterations until done or told to stop.
inline int RunWorker(const std::string& dir, LaneBoard& board, const WorkerPlan& plan) {
  auto device = shm::DeviceFile::Open(dir);
  if (!device.ok()) return 1;
  const auto self = (*device)->Claim("worker");
  if (!self.ok()) return 2;
  Turn turn(**device, *self, RealClock());
  if (!turn.Join(LaneId(0), plan.weight, plan.priority).ok()) return 3;
  board.pids[plan.number].store(getpid());
  board.slots[plan.number].store(self->value());
  board.joined.fetch_add(1);
  testing::Announce(board.news);
  if (!testing::Await(board.news, [&] { return board.go.load(); })) return 4;
  WaitHooks hooks{.cancelled = [&] { return board.stop.load(); }, .tick = plan.tick};
  for (int i = 0; i < plan.iterations && !board.stop.load(); ++i) {
    const absl::Status acquired = turn.Acquire(hooks);
    if (absl::IsCancelled(acquired)) break;
    if (!acquired.ok()) return 5;
    Enter(board, plan.number);
    board.iterations[plan.number].fetch_add(1);
    turn.RecordIteration(absl::Microseconds(10));
    Exit(board, plan.number);
    turn.Release(plan.continuing);
  }
  turn.Leave();
  (*device)->Free(*self);
  return 0;
}

}  // namespace tide::lane

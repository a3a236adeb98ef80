// Measures how long the turn of a lane takes from one process to another, beside a bare futex
// hand-over.
//
// Two processes alternate. A hop runs from the moment before the one lets go to the moment after
// the other has it, by CLOCK_MONOTONIC. Rounds of turn hops and futex hops are interleaved, so that
// both see the same machine. Prints one JSON line. Usage: lane_handover [--hops=N] [--rounds=N]
// [--work_us=N]
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "base/clock.h"
#include "lane/turn.h"
#include "shm/device_file.h"
#include "shm/futex.h"

namespace tide {
namespace {

constexpr int kHopsMax = 1 << 20;

struct Options {
  int hops = 400;  // of each kind in a round
  int rounds = 25;
  int work_us =
      200;  // how long each side computes before it lets go: the other one is asleep by then
};

enum Kind { kTurn = 0, kFutex = 1, kBareFutex = 2, kKinds = 3 };

// What the two processes share. Only the one that runs writes the plain fields.
struct Board {
  std::atomic<uint32_t> round[2];  // futex: side i may start round number round[i]
  std::atomic<uint32_t> baton{0};  // futex: whose move it is, counted up; even is side 0
  std::atomic<int64_t> let_go_ns{0};
  std::atomic<int> last_side{0};  // who ran the last turn
  int hop_count[kKinds] = {};
  int64_t hops_ns[kKinds][kHopsMax];
};

int64_t Now() { return RealClock().MonotonicNanos(); }

void Work(int work_us) {
  const int64_t end = Now() + work_us * 1000;
  while (Now() < end) continue;
}

void Record(Board& board, Kind kind, int64_t now_ns) {
  const int64_t let_go_ns = board.let_go_ns.load();
  if (let_go_ns == 0 || board.hop_count[kind] >= kHopsMax) return;
  board.hops_ns[kind][board.hop_count[kind]++] = now_ns - let_go_ns;
}

// One side of `hops` baton hops; side 0 has the first move.
void FutexHops(Board& board, Kind kind, int side, uint32_t base, int hops, int work_us) {
  for (int i = 0; i < hops; ++i) {
    const uint32_t mine = base + static_cast<uint32_t>(2 * i + side);
    for (uint32_t seen = board.baton.load(); seen != mine; seen = board.baton.load()) {
      shm::FutexWait(board.baton, seen, absl::Seconds(10));
    }
    Record(board, kind, Now());
    if (work_us > 0) Work(work_us);
    board.let_go_ns.store(Now());
    board.baton.store(mine + 1);
    shm::FutexWake(board.baton, 1);
  }
}

void TurnHops(Board& board, lane::Turn& turn, int side, int hops, int work_us) {
  for (int i = 0; i < hops; ++i) {
    if (!turn.Acquire().ok()) abort();
    const int64_t now_ns = Now();
    if (board.last_side.exchange(side) != side) Record(board, kTurn, now_ns);
    const int64_t start_ns = Now();
    Work(work_us);
    turn.RecordIteration(absl::Nanoseconds(Now() - start_ns));
    board.let_go_ns.store(Now());
    turn.Release(/*continuing=*/true);
  }
  turn.SetReady(false);
}

// Both sides arrive before either goes on; the next measurement starts without a "let go" time.
void Meet(Board& board, int side, uint32_t number) {
  board.round[side].store(number);
  shm::FutexWake(board.round[side], 1);
  std::atomic<uint32_t>& other = board.round[1 - side];
  for (uint32_t seen = other.load(); seen < number; seen = other.load()) {
    shm::FutexWait(other, seen, absl::Seconds(10));
  }
}

void RunSide(Board& board, const std::string& dir, int side, const Options& options) {
  auto device = shm::DeviceFile::Open(dir);
  if (!device.ok()) abort();
  const auto self = (*device)->Claim("side");
  lane::Turn turn(**device, *self, RealClock());
  if (!self.ok() || !turn.Join(LaneId(0)).ok()) abort();
  (*device)->lane(LaneId(0)).policy.store(static_cast<uint32_t>(sched::TurnPolicyId::kRr));
  uint32_t meeting = 0;
  const auto begin = [&] {
    Meet(board, side, ++meeting);
    if (side == 0) board.let_go_ns.store(0);
    Meet(board, side, ++meeting);
  };
  for (int round = 0; round < options.rounds; ++round) {
    const auto base = static_cast<uint32_t>(4 * round * options.hops);
    begin();
    TurnHops(board, turn, side, options.hops, options.work_us);
    begin();
    FutexHops(board, kFutex, side, base, options.hops, options.work_us);
    begin();
    FutexHops(board, kBareFutex, side, base + static_cast<uint32_t>(2 * options.hops), options.hops,
              0);
  }
  turn.Leave();
  (*device)->Free(*self);
}

double PercentileUs(const Board& board, Kind kind, double percent) {
  std::vector<int64_t> hops(board.hops_ns[kind], board.hops_ns[kind] + board.hop_count[kind]);
  if (hops.empty()) return 0;
  std::sort(hops.begin(), hops.end());
  const auto index = static_cast<size_t>(percent / 100 * static_cast<double>(hops.size() - 1));
  return static_cast<double>(hops[index]) / 1000;
}

void Print(const Board& board, const Options& options) {
  const double handover = PercentileUs(board, kTurn, 50), futex = PercentileUs(board, kFutex, 50);
  printf(
      "{\"bench\": \"lane_handover\", \"handover_us_p50\": %.2f, \"handover_us_p99\": %.2f, "
      "\"futex_one_way_us_p50\": %.2f, \"futex_one_way_us_p99\": %.2f, "
      "\"bare_futex_half_round_trip_us_p50\": %.2f, \"over_futex_one_way\": %.3f, "
      "\"turn_hops\": %d, \"futex_hops\": %d, \"work_us\": %d}\n",
      handover, PercentileUs(board, kTurn, 99), futex, PercentileUs(board, kFutex, 99),
      PercentileUs(board, kBareFutex, 50), futex > 0 ? handover / futex : 0.0,
      board.hop_count[kTurn], board.hop_count[kFutex], options.work_us);
}

bool ReadOption(const char* argument, const char* name, int* value) {
  const size_t length = strlen(name);
  if (strncmp(argument, name, length) != 0) return false;
  *value = std::max(atoi(argument + length), 0);
  return true;
}

int Main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    if (!ReadOption(argv[i], "--hops=", &options.hops) &&
        !ReadOption(argv[i], "--rounds=", &options.rounds) &&
        !ReadOption(argv[i], "--work_us=", &options.work_us)) {
      fprintf(stderr, "usage: lane_handover [--hops=N] [--rounds=N] [--work_us=N]\n");
      return 2;
    }
  }
  std::string dir = std::filesystem::temp_directory_path() / "tide-handover-XXXXXX";
  if (mkdtemp(dir.data()) == nullptr) return 1;
  void* memory =
      mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 1;
  Board& board = *new (memory) Board;
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    RunSide(board, dir, 1, options);
    _exit(0);
  }
  RunSide(board, dir, 0, options);
  int status = 0;
  waitpid(child, &status, 0);
  Print(board, options);
  std::filesystem::remove_all(dir);
  return status;
}

}  // namespace
}  // namespace tide

int main(int argc, char** argv) { return tide::Main(argc, argv); }

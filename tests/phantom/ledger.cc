#include "phantom/ledger.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "phantom/settings.h"

namespace phantom {
namespace {

constexpr int kProcessesMax = 64;  // one bit each in Entry::holders
constexpr int kEntriesMax = 1 << 17;
constexpr uint32_t kMagic = 0x70686170;
constexpr int64_t kLookAroundMs = 1000;

int64_t NowMs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

/// Between processes: while the word has that value, and no longer than `ms`.
void WaitWhile(uint32_t* word, uint32_t value, int64_t ms) {
  const timespec timeout{ms / 1000, ms % 1000 * 1'000'000};
  syscall(SYS_futex, word, FUTEX_WAIT, value, &timeout, nullptr, 0);
}
void WakeAll(uint32_t* word) {
  syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
}

/// Clock ticks since boot, 0 when there is no such process or it is a zombie.
uint64_t StartTime(int pid) {
  char path[64], text[1024];
  std::snprintf(path, sizeof path, "/proc/%d/stat", pid);
  FILE* file = std::fopen(path, "r");
  if (file == nullptr) return 0;
  text[std::fread(text, 1, sizeof text - 1, file)] = '\0';
  std::fclose(file);
  char* at = std::strrchr(text, ')');
  if (at == nullptr || at[2] == 'Z' || at[2] == 'X') return 0;
  at += 2;
  for (int field = 3; field < 22 && at != nullptr; ++field) {
    at = std::strchr(at, ' ');
    if (at != nullptr) ++at;
  }
  return at == nullptr ? 0 : std::strtoull(at, nullptr, 10);
}

}  // namespace

struct Ledger::Shared {
  struct Process {
    int pid;
    uint64_t start_time;
    uint64_t held;     // the context's share too
    uint64_t context;  // of that
    uint32_t away;     // 1: what it holds is not on the device
    uint32_t state;    // ProcessState; accessed without the lock
    uint32_t calls;    // likewise
  };
  struct Entry {
    uint64_t id;  // 0: free
    uint64_t size;
    uint64_t holders;
  };
  uint32_t magic;
  pthread_mutex_t mu;  // robust: a process killed inside leaves sums that Reap repairs
  uint64_t capacity, used, peak, next_id, refused;
  uint32_t hint;
  Process processes[kProcessesMax];
  Entry entries[kEntriesMax];
};

class Ledger::Lock {
 public:
  explicit Lock(Shared* shared) : shared_(shared) {
    if (pthread_mutex_lock(&shared->mu) == EOWNERDEAD) {
      pthread_mutex_consistent(&shared->mu);
      shared->used = 0;  // derived anew from what is held
      uint64_t away = 0;
      for (int i = 0; i < kProcessesMax; ++i) {
        if (shared->processes[i].away != 0) away |= uint64_t{1} << i;
        if (shared->processes[i].away == 0) shared->used += shared->processes[i].context;
      }
      for (const Shared::Entry& entry : shared->entries)
        shared->used += entry.id != 0 && (entry.holders & ~away) != 0 ? entry.size : 0;
    }
  }
  ~Lock() { pthread_mutex_unlock(&shared_->mu); }

 private:
  Shared* const shared_;
};

std::unique_ptr<Ledger> Ledger::Attach(int index) {
  const Settings& settings = GetSettings();
  const std::string path = settings.directory + "/tide-phantom-" + settings.name + "-" +
                           std::to_string(getuid()) + "-" + std::to_string(index);
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) {
    Complain("cannot open %s: %s", path.c_str(), std::strerror(errno));
    return nullptr;
  }
  flock(fd, LOCK_EX);
  void* mapped = MAP_FAILED;
  if (ftruncate(fd, sizeof(Shared)) == 0) {
    mapped = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  }
  if (mapped == MAP_FAILED) {
    close(fd);
    return nullptr;
  }
  auto* shared = static_cast<Shared*>(mapped);
  if (shared->magic != kMagic) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&shared->mu, &attributes);
    shared->capacity = settings.capacity_bytes;
    shared->next_id = 1;
    shared->magic = kMagic;
  }
  flock(fd, LOCK_UN);
  close(fd);

  std::unique_ptr<Ledger> ledger(new Ledger(shared));
  Lock lock(shared);
  ledger->Reap();
  int free_slot = -1;
  bool alone = true;
  for (int i = kProcessesMax - 1; i >= 0; --i) {
    if (shared->processes[i].pid == 0) {
      free_slot = i;
    } else {
      alone = false;
    }
  }
  if (alone) {
    shared->capacity = settings.capacity_bytes;
    shared->used = shared->peak = shared->refused = 0;
  }
  if (free_slot < 0) return nullptr;
  shared->processes[free_slot] = {};
  shared->processes[free_slot].start_time = StartTime(getpid());
  shared->processes[free_slot].pid = static_cast<int>(getpid());
  ledger->slot_ = free_slot;
  return ledger;
}

bool Ledger::ChargeContext() {
  const uint64_t size = GetSettings().context_bytes;
  Lock lock(shared_);
  Shared::Process& own = shared_->processes[slot_];
  if (size == 0 || own.context != 0) return true;
  if (shared_->used + size > shared_->capacity) Reap();
  if (shared_->used + size > shared_->capacity) return false;
  own.context = size;
  own.held += size;
  shared_->used += size;
  return true;
}

void Ledger::Leave() {
  if (slot_ < 0 || shared_->processes[slot_].pid != getpid()) return;
  Lock lock(shared_);
  for (int i = 0; i < kEntriesMax; ++i) Drop(i, slot_);
  shared_->used -= shared_->processes[slot_].held;  // what is left is the context's share
  shared_->processes[slot_] = {};
}

void Ledger::Drop(int index, int process) {
  Shared::Entry& entry = shared_->entries[index];
  if ((entry.holders >> process & 1) == 0) return;
  entry.holders &= ~(uint64_t{1} << process);
  shared_->processes[process].held -= entry.size;
  if (entry.holders != 0) return;
  if (shared_->processes[process].away == 0) shared_->used -= entry.size;
  entry = {};
}

void Ledger::Reap() {
  for (int i = 0; i < kProcessesMax; ++i) {
    Shared::Process& process = shared_->processes[i];
    if (process.pid == 0 || StartTime(process.pid) == process.start_time) continue;
    for (int k = 0; k < kEntriesMax; ++k) Drop(k, i);
    if (process.away == 0) shared_->used -= process.held;  // what is left is the context's share
    process = {};
  }
}

bool Ledger::Charge(size_t size, LedgerEntry* entry) {
  Lock lock(shared_);
  if (shared_->used + size > shared_->capacity) Reap();
  if (shared_->used + size > shared_->capacity) {
    ++shared_->refused;
    return false;
  }
  for (int k = 0; k < kEntriesMax; ++k) {
    const int index = static_cast<int>((shared_->hint + k) % kEntriesMax);
    if (shared_->entries[index].id != 0) continue;
    shared_->hint = index + 1;
    *entry = {index, shared_->next_id++};
    shared_->entries[index] = {entry->id, size, uint64_t{1} << slot_};
    shared_->processes[slot_].held += size;
    shared_->used += size;
    if (shared_->used > shared_->peak) shared_->peak = shared_->used;
    return true;
  }
  return false;
}

bool Ledger::Share(LedgerEntry entry) {
  Lock lock(shared_);
  Shared::Entry& shared = shared_->entries[entry.index];
  if (shared.id != entry.id || shared.holders == 0) return false;
  for (int i = 0; i < kProcessesMax; ++i) {
    if (shared_->processes[i].away != 0 && IsOnlyOf(entry.index, i)) return false;
  }
  if ((shared.holders >> slot_ & 1) == 0) {
    shared.holders |= uint64_t{1} << slot_;
    shared_->processes[slot_].held += shared.size;
  }
  return true;
}

void Ledger::Release(LedgerEntry entry) {
  Lock lock(shared_);
  if (shared_->entries[entry.index].id == entry.id) Drop(entry.index, slot_);
}

LedgerFigures Ledger::Figures() {
  Lock lock(shared_);
  Reap();
  return {shared_->capacity, shared_->used, shared_->peak, shared_->refused,
          shared_->processes[slot_].away != 0 ? 0 : shared_->processes[slot_].held};
}

int Ledger::Holders(int* pids, uint64_t* bytes, int count_max) {
  Lock lock(shared_);
  Reap();
  int count = 0;
  for (const Shared::Process& process : shared_->processes) {
    if (process.pid == 0 || process.away != 0 || count == count_max) continue;
    pids[count] = process.pid;
    bytes[count++] = process.held;
  }
  return count;
}

// ---- checkpoints ----

int Ledger::Find(int pid) {
  for (int i = 0; i < kProcessesMax; ++i) {
    if (pid != 0 && shared_->processes[i].pid == pid) return i;
  }
  return -1;
}

bool Ledger::IsOnlyOf(int index, int process) const {
  return shared_->entries[index].id != 0 && shared_->entries[index].holders == uint64_t{1}
                                                                                   << process;
}

bool Ledger::IsAttached(int pid) {
  Lock lock(shared_);
  Reap();
  return Find(pid) >= 0;
}

ProcessState Ledger::State(int pid) {
  Lock lock(shared_);
  const int slot = Find(pid);
  if (slot < 0) return ProcessState::kFailed;
  return static_cast<ProcessState>(
      __atomic_load_n(&shared_->processes[slot].state, __ATOMIC_SEQ_CST));
}

bool Ledger::ChangeState(int pid, ProcessState from, ProcessState to) {
  Lock lock(shared_);
  const int slot = Find(pid);
  if (slot < 0) return false;
  uint32_t* const state = &shared_->processes[slot].state;
  auto expected = static_cast<uint32_t>(from);
  const bool changed = __atomic_compare_exchange_n(state, &expected, static_cast<uint32_t>(to),
                                                   false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  if (changed) WakeAll(state);
  return changed;
}

bool Ledger::AwaitCalls(int pid, unsigned timeout_ms) {
  uint32_t* calls = nullptr;
  {
    Lock lock(shared_);
    const int slot = Find(pid);
    if (slot < 0) return true;
    calls = &shared_->processes[slot].calls;
  }
  const int64_t deadline = NowMs() + timeout_ms;
  for (;;) {
    const uint32_t under_way = __atomic_load_n(calls, __ATOMIC_SEQ_CST);
    if (under_way == 0) return true;
    const int64_t left = timeout_ms > 0 ? deadline - NowMs() : kLookAroundMs;
    if (left <= 0) return false;
    WaitWhile(calls, under_way, left);
  }
}

void Ledger::BeginCall() {
  // Counted first and looked at then, the other way round than who locks: one of them sees it.
  Shared::Process& own = shared_->processes[slot_];
  for (;;) {
    __atomic_fetch_add(&own.calls, 1, __ATOMIC_SEQ_CST);
    const uint32_t state = __atomic_load_n(&own.state, __ATOMIC_SEQ_CST);
    if (state == 0) return;
    EndCall();
    WaitWhile(&own.state, state, kLookAroundMs);
  }
}

void Ledger::EndCall() {
  Shared::Process& own = shared_->processes[slot_];
  __atomic_fetch_sub(&own.calls, 1, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(&own.state, __ATOMIC_SEQ_CST) != 0) WakeAll(&own.calls);
}

bool Ledger::SendAway(int pid) {
  Lock lock(shared_);
  const int slot = Find(pid);
  if (slot < 0 || shared_->processes[slot].away != 0) return slot >= 0;
  uint64_t alone = shared_->processes[slot].context;
  for (int k = 0; k < kEntriesMax; ++k) alone += IsOnlyOf(k, slot) ? shared_->entries[k].size : 0;
  if (alone != shared_->processes[slot].held) return false;
  shared_->processes[slot].away = 1;
  shared_->used -= alone;
  return true;
}

bool Ledger::BringBack(int pid) {
  Lock lock(shared_);
  const int slot = Find(pid);
  if (slot < 0 || shared_->processes[slot].away == 0) return slot >= 0;
  const uint64_t held = shared_->processes[slot].held;
  if (shared_->used + held > shared_->capacity) Reap();
  if (shared_->used + held > shared_->capacity) {
    ++shared_->refused;
    return false;
  }
  shared_->processes[slot].away = 0;
  shared_->used += held;
  if (shared_->used > shared_->peak) shared_->peak = shared_->used;
  return true;
}

}  // namespace phantom

// Processes as fibers: each has a stack of its own, and gives the processor up in Step.
#include "sim/elastic/machine.h"

#include <sys/mman.h>

#include <algorithm>
#include <limits>
#include <utility>

namespace tide::elastic::simulated {
namespace {

constexpr size_t kStackBytes = 256 << 10;
constexpr absl::Duration kStepTime = absl::Microseconds(1);

Machine* g_machine = nullptr;  // the one that runs; the edge is a set of plain functions

}  // namespace

Machine::Machine(uint64_t seed, Faults faults) : random_(seed), switches_(faults.switches) {
  const auto add = [&](int count, auto kind) {
    for (int i = 0; i < count; ++i)
      faults_.push_back({static_cast<int64_t>(random_.Below(faults.within)), kind});
  };
  add(faults.kills, Fault::kKill);
  add(faults.stops, Fault::kStop);
  add(faults.delays, Fault::kDelay);
  std::sort(faults_.begin(), faults_.end(),
            [](const Fault& a, const Fault& b) { return a.at_step > b.at_step; });
  g_machine = this;
}

Machine::~Machine() {
  g_machine = nullptr;
  for (const auto& process : processes_) {
    if (process->stack == nullptr) continue;
    Forget(process->fiber);
    stacks_.push_back(process->stack);
  }
  for (void* stack : stacks_) munmap(stack, kStackBytes);
}

void* Machine::TakeStack() {
  if (!stacks_.empty()) {
    void* stack = stacks_.back();
    stacks_.pop_back();
    return stack;
  }
  return mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

int32_t Machine::Start(std::function<void()> body, std::function<void(bool)> ended, bool immortal) {
  auto process = std::make_unique<Process>();
  process->pid = static_cast<int32_t>(processes_.size()) + 1;
  process->body = std::move(body);
  process->ended = std::move(ended);
  process->immortal = immortal;
  process->stack = TakeStack();
  process->fiber.stack = process->stack;
  process->fiber.stack_bytes = kStackBytes;
  Prepare(process->fiber);
  ucontext_t& context = process->fiber.context;
  getcontext(&context);
  context.uc_stack.ss_sp = process->stack;
  context.uc_stack.ss_size = kStackBytes;
  const auto address = reinterpret_cast<uintptr_t>(process.get());
  makecontext(&context, reinterpret_cast<void (*)()>(&Machine::Enter), 2,
              static_cast<uint32_t>(address >> 32), static_cast<uint32_t>(address));
  processes_.push_back(std::move(process));
  return processes_.back()->pid;
}

void Machine::Enter(uint32_t high, uint32_t low) {
  auto* process = reinterpret_cast<Process*>(static_cast<uintptr_t>(high) << 32 | low);
  Arrive(g_machine->scheduler_);
  try {
    process->body();
  } catch (const Killed&) {
    // its destructors have run, without effect
  }
  process->over = true;
  Depart(g_machine->scheduler_);
}

Machine::Process* Machine::Find(int32_t pid) {
  const bool known = pid >= 1 && pid <= static_cast<int32_t>(processes_.size());
  return known ? processes_[static_cast<size_t>(pid - 1)].get() : nullptr;
}

Machine::Process* Machine::Choose() {
  std::vector<Process*> able;
  int64_t next_ns = std::numeric_limits<int64_t>::max();
  for (const auto& process : processes_) {
    if (process->over) continue;
    if (process->killed || process->until_ns <= clock_.MonotonicNanos()) {
      able.push_back(process.get());
    } else {
      next_ns = std::min(next_ns, process->until_ns);
    }
  }
  if (!able.empty()) return able[random_.Below(able.size())];
  if (next_ns == std::numeric_limits<int64_t>::max()) return nullptr;
  clock_.Advance(absl::Nanoseconds(next_ns - clock_.MonotonicNanos()));
  return Choose();
}

bool Machine::Run(int64_t steps_max) {
  while (steps_ < steps_max) {
    current_ = Choose();
    if (current_ == nullptr) return true;
    current_->asleep = current_->stopped = false;
    Switch(scheduler_, current_->fiber);
    Process* ran = std::exchange(current_, nullptr);
    if (!ran->over) continue;
    Forget(ran->fiber);
    stacks_.push_back(std::exchange(ran->stack, nullptr));
    ran->ended(ran->killed);
  }
  return false;
}

void Machine::Yield() {
  Switch(current_->fiber, scheduler_);
  CheckKilled();
}

void Machine::CheckKilled() {
  if (!current_->killed || current_->unwinding) return;
  current_->unwinding = true;
  throw Killed();
}

void Machine::Delay(absl::Duration duration) {
  current_->until_ns = clock_.MonotonicNanos() + absl::ToInt64Nanoseconds(duration);
  Yield();
}

void Machine::KillNow(Process& process) {
  if (process.over || process.killed) return;
  process.killed = true;
  if (on_kill_) on_kill_();
}

void Machine::Inject() {
  const Fault fault = faults_.back();
  faults_.pop_back();
  std::vector<Process*> mortal;
  for (const auto& process : processes_)
    if (!process->immortal && !process->over && !process->killed) mortal.push_back(process.get());
  if (mortal.empty()) return;
  Process& victim = *mortal[random_.Below(mortal.size())];
  if (fault.kind == Fault::kKill) {
    KillNow(victim);
    return;
  }
  const int64_t most_ms = fault.kind == Fault::kStop ? 2000 : 100;
  victim.stopped = fault.kind == Fault::kStop;
  victim.asleep = false;  // a wake-up reaches it when it goes on
  victim.until_ns =
      clock_.MonotonicNanos() + static_cast<int64_t>(random_.Below(most_ms * 1'000'000) + 1);
  if (&victim == current_) Yield();
}

bool Step() {
  Machine* machine = g_machine;
  if (machine == nullptr || machine->current_ == nullptr) return true;
  if (machine->current_->unwinding) return false;
  ++machine->steps_;
  machine->clock_.Advance(kStepTime);
  machine->CheckKilled();
  if (!machine->faults_.empty() && machine->steps_ >= machine->faults_.back().at_step)
    machine->Inject();
  machine->CheckKilled();
  if (machine->random_.Below(static_cast<uint64_t>(machine->switches_)) == 0) machine->Yield();
  return true;
}

bool FailsSpuriously() {
  return g_machine != nullptr && g_machine->current_ != nullptr &&
         g_machine->random_.Below(16) == 0;
}

void Sleep(absl::Duration timeout) {
  Machine* machine = g_machine;
  if (machine == nullptr || machine->current_ == nullptr || machine->current_->unwinding) return;
  machine->current_->asleep = true;
  machine->Delay(timeout);
}

void WakeSleepers() {
  if (!Step() || g_machine == nullptr) return;
  for (const auto& process : g_machine->processes_)
    if (process->asleep) process->until_ns = 0;
}

int32_t OwnPid() {
  return g_machine == nullptr || g_machine->current_ == nullptr ? 1 : g_machine->current_->pid;
}

bool Runs(int32_t pid) {
  const Machine::Process* process = g_machine == nullptr ? nullptr : g_machine->Find(pid);
  return process != nullptr && !process->killed && !process->over;
}

bool IsStopped(int32_t pid) {
  const Machine::Process* process = g_machine == nullptr ? nullptr : g_machine->Find(pid);
  return process != nullptr && process->stopped;
}

void Kill(int32_t pid) {
  Machine::Process* process = g_machine == nullptr ? nullptr : g_machine->Find(pid);
  if (process != nullptr) g_machine->KillNow(*process);
}

Clock& MachineClock() { return g_machine == nullptr ? RealClock() : g_machine->clock_; }

}  // namespace tide::elastic::simulated

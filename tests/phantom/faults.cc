#include "phantom/faults.h"

#include <condition_variable>
#include <cstdio>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

#include "phantom/settings.h"

namespace phantom {
namespace {

struct Fault {
  std::string name;
  int skip;
  int times;
  int error;
};

struct State {
  std::mutex mu;
  std::vector<Fault> faults;
  std::map<std::string, uint64_t> counts;
  std::string held;
  int let_through = 0;
  std::condition_variable let_go;
};

/// "cuMemMap:5:2,cuMemCreate:0:2:3"
void ReadFaults(State& state) {
  std::istringstream list(GetSettings().faults);
  for (std::string item; std::getline(list, item, ',');) {
    char name[64];
    int skip = 0, error = 0, times = 1;
    if (std::sscanf(item.c_str(), "%63[^:]:%d:%d:%d", name, &skip, &error, &times) >= 3) {
      state.faults.push_back({name, skip, times, error});
    } else {
      Complain("TIDE_PHANTOM_FAULTS: cannot read \"%s\"", item.c_str());
    }
  }
}

State& GetState() {
  static State& state = *[] {
    auto* made = new State;
    ReadFaults(*made);
    return made;
  }();
  return state;
}

}  // namespace

int EnterCall(const char* name) {
  State& state = GetState();
  std::unique_lock<std::mutex> lock(state.mu);
  state.let_go.wait(lock, [&] { return state.held != name || state.let_through > 0; });
  if (state.held == name) --state.let_through;
  ++state.counts[name];
  ++state.counts["*"];
  for (Fault& fault : state.faults) {
    if (fault.times == 0 || (fault.name != "*" && fault.name != name)) continue;
    if (fault.skip > 0) {
      --fault.skip;
      continue;
    }
    --fault.times;
    return fault.error;
  }
  return 0;
}

void ArmFault(const char* name, int skip, int times, int error) {
  State& state = GetState();
  std::lock_guard<std::mutex> lock(state.mu);
  state.faults.push_back({name, skip, times, error});
}

void HoldCall(const char* name) {
  State& state = GetState();
  std::lock_guard<std::mutex> lock(state.mu);
  state.held = name != nullptr ? name : "";
  state.let_through = 0;
  state.let_go.notify_all();
}

void LetThrough(int calls) {
  State& state = GetState();
  std::lock_guard<std::mutex> lock(state.mu);
  state.let_through += calls;
  state.let_go.notify_all();
}

void DisarmFaults() {
  State& state = GetState();
  std::lock_guard<std::mutex> lock(state.mu);
  state.faults.clear();
}

uint64_t CallCount(const char* name) {
  State& state = GetState();
  std::lock_guard<std::mutex> lock(state.mu);
  auto it = state.counts.find(name);
  return it == state.counts.end() ? 0 : it->second;
}

}  // namespace phantom
